"""Labels that predict writes are read back by the readers of these forms."""

import csv
import json
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from helpers.other_formats import contents
from PIL import Image, ImageOps

from dino_detr.cli import main
from dino_detr.data import category_ids, class_names, load_detection_dataset

FORMATS = ("coco", "yolo", "voc", "csv", "label-studio")


@pytest.fixture(scope="module")
def written(checkpoint, photos, tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """The output folder with all formats, and the entries of its `detections.json` by stem."""
    output = tmp_path_factory.mktemp("written") / "out"
    formats = [part for name in FORMATS for part in ("--format", name)]
    main(["predict", str(checkpoint), str(photos), "--output", str(output), "--threshold", "0.3", *formats])
    entries = json.loads((output / "detections.json").read_text())
    assert all(len(entry["detections"]) > 2 for entry in entries)
    return output, {Path(entry["image"]).stem: entry for entry in entries}


def xywh(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


@pytest.mark.parametrize(("form", "tolerance"), [("yolo", 1e-3), ("voc", 1)])
def test_they_can_be_imported(form, tolerance, written, tmp_path):
    output, entries = written
    main(["import-data", form, str(output / form), "--output", str(tmp_path / "coco"), "--strict", *(
        ["--val_share", "0.2"] if form == "voc" else []
    )])  # fmt: skip
    read = {}
    for split in ("train", "val"):
        content, boxes = contents(tmp_path / "coco", split)
        assert {category["name"] for category in content["categories"]} == {"cat", "dog", "emu"}
        read |= {Path(name).stem: found for name, found in boxes.items()}
    assert set(read) == set(entries)
    for stem, found in read.items():
        expected = entries[stem]["detections"]
        assert [name for name, _ in found] == [one["label"] for one in expected]
        for (_, box), one in zip(found, expected):
            assert box == pytest.approx(xywh(one["box"]), abs=tolerance)


def test_coco_can_be_trained_on(written):
    output, entries = written
    rows = load_detection_dataset(str(output / "coco"), "train")
    assert category_ids(rows) == [3, 8, 11] and class_names(rows) == ["cat", "dog", "emu"]
    for row, (stem, entry) in zip(rows, sorted(entries.items())):
        assert row["objects"]["bbox"] == [pytest.approx(xywh(one["box"]), abs=1e-3) for one in entry["detections"]]
        upright = ImageOps.exif_transpose(Image.open(entry["image"]))
        assert row["image"].size == upright.size == (entry["width"], entry["height"]), stem


def test_yolo_names_its_classes(written):
    description = yaml.safe_load((written[0] / "yolo" / "data.yaml").read_text())
    assert description["names"] == {0: "cat", 1: "dog", 2: "emu"}


def test_csv_has_a_row_for_each(written):
    output, entries = written
    with open(output / "csv" / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(entry["image"], one) for entry in entries.values() for one in entry["detections"]]
    assert len(rows) == len(expected)
    for row, (image, one) in zip(rows, expected):
        assert (row["image"], row["label"], int(row["category_id"])) == (image, one["label"], one["category_id"])
        assert [float(row[side]) for side in ("x1", "y1", "x2", "y2")] == one["box"] and float(row["score"]) == one[
            "score"
        ]


def test_label_studio_has_shares_of_a_hundred(written):
    output, entries = written
    tasks = json.loads((output / "label-studio" / "tasks.json").read_text())
    assert len(tasks) == len(entries)
    for task in tasks:
        path = "/" + unquote(task["data"]["image"].partition("?d=")[2])
        entry = entries[Path(path).stem]
        assert Path(path).is_file()
        for result, one in zip(task["predictions"][0]["result"], entry["detections"], strict=True):
            value, width, height = result["value"], result["original_width"], result["original_height"]
            box = [value["x"] * width, value["y"] * height, value["width"] * width, value["height"] * height]
            assert [side / 100 for side in box] == pytest.approx(xywh(one["box"]), abs=1e-2)
            assert value["rectanglelabels"] == [one["label"]] and result["score"] == one["score"]


def test_only_what_predict_wrote_is_replaced(checkpoint, photos, tmp_path):
    command = ["predict", str(checkpoint), str(photos / "0.png"), "--output", str(tmp_path / "out"), "--format", "yolo"]
    (tmp_path / "out" / "yolo").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"out/yolo exists: choose another --output"):
        main(command)
    (tmp_path / "out" / "yolo").rmdir()
    main(command)
    main([*command[:2], str(photos / "3.png"), *command[3:], "--overwrite"])
    images, labels = (tmp_path / "out" / "yolo" / name / "train" for name in ("images", "labels"))
    assert [path.name for folder in (images, labels) for path in folder.iterdir()] == ["3.png", "3.txt"]
    assert (photos / "3.png").is_file() and (photos / "0.png").is_file()
    (labels / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"mine\.txt is not predict's; choose another --output"):
        main([*command, "--overwrite"])
    assert (labels / "mine.txt").read_text() == "mine" and (labels / "3.txt").is_file()


def test_labels_are_of_images(checkpoint, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"a film")
    with pytest.raises(SystemExit, match=r"--format writes labels of images, and .*film\.mp4 is a video"):
        main(
            ["predict", str(checkpoint), str(tmp_path / "film.mp4"), "--output", str(tmp_path / "o"), "--format", "csv"]
        )
