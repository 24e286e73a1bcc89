"""`check-data --checkpoint` finds the errors that were put into labels, and says nothing of the others."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.launching import ROOT
from PIL import Image

from dino_detr import Detector
from dino_detr.cli import main
from dino_detr.data.check import check_split
from dino_detr.inference.label_check import check_labels

SCORE = 1 / (1 + np.exp(-2))  # of everything that the stand-in sees
CATEGORIES = {"zebra": 2, "dog": 5, "cat": 7}  # the checkpoint has cat 3, dog 8 and emu 11
COLORS = {"cat": (255, 0, 0), "dog": (0, 255, 0)}
OBJECTS = [("cat", [10, 10, 20, 20]), ("dog", [50, 20, 30, 24])]  # of every image, xywh
SPLIT = "val"


@pytest.fixture
def mislabelled(tmp_path):
    """A COCO folder: four images, in three of which a box is missing, one has nothing in it, one another class."""
    labels = [
        OBJECTS,
        OBJECTS[:1],
        [*OBJECTS, ("dog", [4, 40, 20, 16])],
        [("dog", OBJECTS[0][1]), OBJECTS[1]],
    ]
    folder = tmp_path / "data"
    (folder / "annotations").mkdir(parents=True)
    (folder / SPLIT).mkdir()
    images, annotations = [], []
    for number, objects in enumerate(labels):
        pixels = np.zeros((64, 96, 3), dtype=np.uint8)
        for name, (x, y, width, height) in OBJECTS:
            pixels[y : y + height, x : x + width] = COLORS[name]
        Image.fromarray(pixels).save(folder / SPLIT / f"{number}.png")
        images.append({"id": 30 - number, "file_name": f"{number}.png", "width": 96, "height": 64})
        for name, box in objects:
            entry = {"id": 100 + len(annotations), "image_id": 30 - number, "category_id": CATEGORIES[name]}
            annotations.append(entry | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": id_, "name": name} for name, id_ in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{SPLIT}.json").write_text(json.dumps(content))
    return folder


def check(data, checkpoint, output, *options):
    main(["check-data", str(data), "--checkpoint", str(checkpoint), "--output", str(output), *options])
    return json.loads((output / "label_check.json").read_text())


def test_planted_errors_are_found_and_nothing_else(mislabelled, checkpoint, sees_large_blobs, tmp_path, capsys):
    content = check(mislabelled, checkpoint, tmp_path / "out")
    suspects = content.pop("suspects")
    assert content == {
        "dataset": str(mislabelled), "checkpoint": str(checkpoint), "splits": [SPLIT], "threshold": 0.5, "images": 4,
        "boxes": 8, "classes_left_out": ["zebra"], "unreadable_images": [],
    }  # fmt: skip
    (cat, dog), folder = (box for _, box in OBJECTS), mislabelled / SPLIT
    missing = {"annotation_id": None, "category": None, "category_id": None, "bbox": None}
    undetected = {"detected_category": None, "detected_bbox": None, "detection_score": None}
    score = pytest.approx(SCORE, abs=1e-4)
    expected = [
        {
            "kind": "spurious box", "score": 1, "image": str(folder / "2.png"), "image_id": 28,
            "annotation_id": 105, "category": "dog", "category_id": 5, "bbox": [4, 40, 20, 16], **undetected,
        },
        {
            "kind": "missing box", "score": score, "image": str(folder / "1.png"), "image_id": 29, **missing,
            "detected_category": "dog", "detected_bbox": pytest.approx(dog, abs=0.01), "detection_score": score,
        },
        {
            "kind": "wrong class", "score": score, "image": str(folder / "3.png"), "image_id": 27,
            "annotation_id": 106, "category": "dog", "category_id": 5, "bbox": cat,
            "detected_category": "cat", "detected_bbox": pytest.approx(cat, abs=0.01), "detection_score": score,
        },
    ]  # fmt: skip
    assert suspects == [
        {**entry, "split": SPLIT, "crop": f"crops/{rank:03}.jpg"} for rank, entry in enumerate(expected, 1)
    ]
    documented = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs" / "guides" / "data.md").read_text(), re.M | re.S)
    assert all(list(entry) == list(json.loads(documented[0])) for entry in suspects)
    said = capsys.readouterr()
    assert "3 suspects in 8 boxes of 4 images" in said.out
    assert said.err.count("zebra") == 1 and "does not know zebra" in said.err

    page = (tmp_path / "out" / "label_check.html").read_text()
    assert [page.index(kind["kind"] + " ") for kind in expected] == sorted(
        page.index(kind["kind"] + " ") for kind in expected
    )
    crop = np.asarray(Image.open(tmp_path / "out" / "crops" / "002.jpg"))
    assert (crop[..., 1] > 128).sum() == pytest.approx(dog[2] * dog[3], rel=0.1)  # all of the dog that has no box


def test_the_page_shows_the_worst_and_counts_all(mislabelled, checkpoint, sees_large_blobs, tmp_path, monkeypatch):
    monkeypatch.setattr("dino_detr.evaluation.report.label_page.MAX_CROPS", 2)
    path = mislabelled / "annotations" / f"instances_{SPLIT}.json"
    path.write_text(path.read_text().replace('"zebra"', '"<b>&"'))  # a name that HTML would take for its own
    suspects = check(mislabelled, checkpoint, tmp_path / "out")["suspects"]
    assert [entry["crop"] is None for entry in suspects] == [False, False, True]
    page = (tmp_path / "out" / "label_check.html").read_text()
    assert "2 of 3 suspects" in page and page.count("<article") == 2
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page


def test_an_image_that_breaks_meanwhile_is_left_out(mislabelled, checkpoint, sees_large_blobs, tmp_path, capsys):
    splits = {SPLIT: check_split(str(mislabelled), SPLIT).rows}
    (mislabelled / SPLIT / "1.png").unlink()
    content = check_labels(Detector(str(checkpoint)), splits, tmp_path / "out", "data", "detector", batch_size=2)
    assert [entry["kind"] for entry in content["suspects"]] == ["spurious box", "wrong class"]
    assert content["images"] == 3 and content["boxes"] == 7
    assert [Path(name.split(":")[0]).name for name in content["unreadable_images"]] == ["1.png"]
    assert "1.png: No such file or directory: left out" in capsys.readouterr().err


def test_bad_input_is_a_sentence(mislabelled, checkpoint, tmp_path):
    def fails(match, *options, source=mislabelled):
        with pytest.raises(SystemExit, match=match):
            main(["check-data", str(source), *map(str, options)])

    fails("no checkpoint folder nowhere", "--checkpoint", "nowhere", "--output", tmp_path / "out")
    fails("test", "--checkpoint", checkpoint, "--split", "test", "--output", tmp_path / "out")
    fails("--show draws samples", "--checkpoint", checkpoint, "--show", "3")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "label_check.json").write_text("mine")
    fails("taken is not an empty folder; choose another --output", "--checkpoint", checkpoint, "--output", taken)
    path = mislabelled / "annotations" / f"instances_{SPLIT}.json"
    path.write_text(path.read_text().replace('"cat"', '"chat"').replace('"dog"', '"chien"'))
    fails(
        "knows none of the classes of val: it has cat, dog, emu", "--checkpoint", checkpoint, "--output", tmp_path / "o"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "taken"]
    assert [path.read_text() for path in taken.iterdir()] == ["mine"]
