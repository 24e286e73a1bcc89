"""Promises 5 and 16: nothing dirty gets through silently, and every image is the same upright RGB everywhere."""

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers.coco_files import coco, write
from helpers.dirty import EXPECTED, write_clean, write_dirty
from helpers.launching import RECIPE, lines, run
from PIL import Image

from dino_detr import DinoDetrImageProcessor
from dino_detr.cli import main
from dino_detr.data import load_detection_dataset
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.check import check_split, summarise
from dino_detr.data.image_sources import find_images
from dino_detr.data.samples import TrainingSamples, collate, drop_images_without_boxes
from dino_detr.evaluation.detections import detect, references
from dino_detr.training import parse_options
from dino_detr.training import run as training_run
from dino_detr.training.guards.unreadable import TooManyUnreadable, UnreadableImages


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The dirty folder and the one cleaned by hand."""
    folder = tmp_path_factory.mktemp("data")
    write_dirty(folder / "dirty")
    write_clean(folder / "clean")
    return folder / "dirty", folder / "clean"


@pytest.fixture(scope="module")
def reports(folders):
    train = check_split(str(folders[0]), "train", num_queries=8)
    return [train, check_split(str(folders[0]), "val", num_queries=8, other_splits=[train])]


def test_every_defect_is_found(folders, reports):
    found = [
        (report.split, finding.kind, os.path.relpath(example.file, folders[0]), example.annotation_id)
        for report in reports
        for finding in report.findings
        for example in finding.examples
    ]
    found = [
        (split, kind, "emu" if kind == "absent_class" else file.replace(split + ".json", "{split}.json"), id_)
        for split, kind, file, id_ in found
    ]
    assert len(found) == len(EXPECTED) == sum(f.count for report in reports for f in report.findings)
    assert set(found) == EXPECTED
    assert summarise(reports) == (
        "25 defects and 9 remarks in 15 images; training will drop 7 images, 1 category, 10 boxes; correct 1 size; "
        "clip 4 boxes; renumber 1 annotation"
    )


def contents(rows) -> list[dict]:
    """The rows, images by their files' names; annotation ids only of annotations that had their own."""
    result = []
    for path, row in zip(rows.with_format("arrow")[:]["image"].to_pylist(), rows.remove_columns("image")):
        row["image"] = os.path.basename(path["path"])
        row["objects"]["id"] = [id_ if id_ < 22 or id_ in range(24, 40) else "new" for id_ in row["objects"]["id"]]
        result.append(row)
    return result


def test_rows_are_those_of_the_cleaned_folder(folders, reports):
    for report in reports:
        clean = load_detection_dataset(str(folders[1]), report.split)
        assert contents(report.rows) == contents(clean)
        assert report.rows.features == clean.features
        ids = [id_ for row in report.rows["objects"] for id_ in row["id"]]
        assert len(set(ids)) == len(ids)  # pycocotools loses annotations to repeated ones
        again = check_split(str(folders[1]), report.split)
        assert not again.defects
        assert contents(again.rows) == contents(clean)


def test_bccd(bccd):
    """One box of no size in each split, and nothing else."""
    for split, name, id_ in (("train", "BloodImage_00343.jpg", 2288), ("val", "BloodImage_00338.jpg", 887)):
        (finding,) = check_split(str(bccd), split).findings
        assert (finding.kind, finding.count, finding.action) == ("zero_sized_box", 1, "drop")
        assert os.path.basename(finding.examples[0].file) == name
        assert finding.examples[0].annotation_id == id_


def test_a_path_that_goes_up_and_down(folders):
    """It names the same files."""
    clean = folders[1]
    report, roundabout = (check_split(str(folder), "train") for folder in (clean, clean / ".." / clean.name))
    assert roundabout.findings == report.findings
    assert roundabout.rows[0]["image"].filename == report.rows[0]["image"].filename


def test_images_of_another_split_are_not_unnamed(folders, tmp_path):
    """Where all splits share a folder of images; what no split names still is, where the file is the only one."""
    train, val = (folders[1] / "annotations" / f"instances_{split}.json" for split in ("train", "val"))
    for split in ("train", "val"):
        shutil.copytree(folders[1] / split, tmp_path / "images", dirs_exist_ok=True)
    shutil.copy(train, tmp_path / "train.json")

    def unnamed() -> int:
        findings = check_split(str(tmp_path), "train").findings
        return sum(finding.count for finding in findings if finding.kind == "unnamed_file")

    assert unnamed() == 2
    shutil.copy(val, tmp_path / "val.json")
    assert unnamed() == 0


def test_the_command(folders, capsys):
    dirty, clean = folders

    def check_data(*arguments, expect=None) -> str:
        status = None
        try:
            main(["check-data", *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        assert status == expect
        return capsys.readouterr().out

    output = check_data(dirty)
    assert "train/boxes.png, annotation 17: [20, 20, 0, 5]\n" in output
    assert "      2  image files that are truncated or damaged: dropped\n" in output
    assert output.rstrip().splitlines()[-1].startswith("25 defects and ")
    output = check_data(dirty, "--split", "val", "--strict", expect=1)
    assert "boxes.png" not in output and "plain.png, annotation 31: [5, 5, 4, 0]\n" in output
    output = check_data(clean, "--split", "train", "--strict")
    assert "0 defects and 2 remarks in 6 images; training will use them as they are" in output
    with pytest.raises(SystemExit, match="no split 'test'; it has train, val"):
        main(["check-data", str(clean), "--split", "test"])


def test_an_epoch_trains_and_evaluates(folders, tmp_path):
    """With the losses of the cleaned folder; `evaluate` gives the same figures on both; `strict` refuses."""
    for folder, name in zip(folders, ("dirty", "clean")):
        recipe = tmp_path / f"{name}.yaml"
        options = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 1, "total_batch_size": 2}
        dropped = ("max_steps", "eval_steps", "save_steps")
        options = {k: v for k, v in RECIPE.items() if k not in dropped} | options
        recipe.write_text(yaml.safe_dump({"dataset": str(folder), **options}))
        if name == "dirty":
            output = run(sys.executable, "train.py", recipe, "--output_dir", tmp_path / name)
            assert "2  image files that are truncated or damaged: dropped" in output
            assert output.index("boxes of negative width or height: dropped") < output.index("0%|")
        else:
            main(["train", str(recipe), "--output_dir", str(tmp_path / name)])
    report = (tmp_path / "dirty" / "data_report.txt").read_text()
    assert "train/truncated.jpg: image file is truncated" in report and "val/plain.png, annotation 31" in report
    losses = [[line["loss"] for line in lines(tmp_path / name / "metrics.jsonl")] for name in ("dirty", "clean")]
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    figures = json.loads((tmp_path / "dirty" / "figures.json").read_text())
    for folder in folders:
        figures_file = str(tmp_path / f"{folder.name}.json")
        main(["evaluate", str(tmp_path / "dirty"), "--dataset", str(folder), "--output", figures_file])
    evaluated = [json.loads((tmp_path / f"{folder.name}.json").read_text()) for folder in folders]
    assert evaluated[0] == evaluated[1]
    assert evaluated[0]["AR100"] == pytest.approx(figures["AR100"], abs=1e-6)

    with pytest.raises(SystemExit, match=r"strict: 25 defects and .*data_report.txt names them"):
        main(["train", str(tmp_path / "dirty.yaml"), "--strict", "--output_dir", str(tmp_path / "strict")])


def test_embedded_images_are_checked_too(folders, monkeypatch):
    """As rows of the Hub have them: bytes, with boxes that no loader has looked at."""
    rows = load_detection_dataset(str(folders[1]), "train")
    paths = [image["path"] for image in rows.with_format("arrow")[:]["image"].to_pylist()]
    embedded = [{"bytes": Path(path).read_bytes(), "path": None} for path in paths]
    embedded[3]["bytes"] = embedded[3]["bytes"][:5000]
    objects = rows["objects"][:]
    objects[1]["bbox"][0] = [70, 10, 0, 20]
    columns = {name: rows[name][:] for name in ("image_id", "width", "height")}
    rows = type(rows).from_dict({**columns, "image": embedded, "objects": objects}, features=rows.features)
    monkeypatch.setattr("dino_detr.data.check.load_detection_dataset", lambda *_: rows)
    report = check_split("someone/else", "train")
    examples = {finding.kind: finding.examples[0][:2] for finding in report.defects}
    assert examples == {"truncated_file": ("image 4", None), "zero_sized_box": ("image 2", 24)}
    assert report.rows["image_id"] == [1, 2, 3, 5, 6]
    assert report.rows[0]["image"].size == (96, 64)


@pytest.fixture
def samples(tmp_path):
    write_clean(tmp_path / "data")
    rows = drop_images_without_boxes(load_detection_dataset(str(tmp_path / "data"), "train"))
    return TrainingSamples(rows, build_augmentation("reference", [32, 48], 64), seed=5)


def test_a_file_that_breaks_is_skipped(samples, tmp_path):
    """In its place comes a sample of the same epoch, the same one each time, and it is named."""
    whole = [samples[index] for index in range(5)]
    assert not any(sample["unreadable"] for sample in whole)
    path = tmp_path / "data" / "train" / "no_size.png"
    path.write_bytes(path.read_bytes()[:5000])
    instead = samples[2]
    (fault,) = instead["unreadable"]
    assert fault.startswith(f"{path}: ") and "truncated" in fault
    assert any(torch.equal(instead["image"], whole[index]["image"]) for index in (0, 1, 3, 4))
    assert torch.equal(samples[2]["image"], instead["image"])
    assert samples[1]["unreadable"] == []
    assert collate([instead, whole[0]])["unreadable"] == [fault]
    samples.augmentation = None  # what is not the file's fault is not blamed on it
    with pytest.raises(TypeError, match="not callable"):
        samples[0]


def test_when_all_files_are_gone_it_ends(samples, tmp_path):
    for path in (tmp_path / "data" / "train").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError):
        samples[0]


def test_too_many_unreadable_files_end_the_run(caplog):
    """More than one in a hundred, and at least ten."""
    unreadable = UnreadableImages()
    for skipped, seen, too_many in ((9, 20, False), (10, 990, False), (11, 989, True), (10, 900, True)):
        unreadable.name(["a.jpg: gone"])
        unreadable.count(skipped // 2, seen // 2)
        unreadable.count(skipped - skipped // 2, seen - seen // 2)
        if too_many:
            with pytest.raises(TooManyUnreadable, match=rf"{skipped} of the last {seen + skipped} .*a\.jpg: gone"):
                unreadable.end_interval()
        else:
            assert unreadable.end_interval() == skipped
    assert unreadable.end_interval() == 0


@pytest.fixture
def train_and_break(data, recipe, tmp_path, monkeypatch):
    """A function that trains, on files some of which break after the check; it returns what is logged meanwhile."""
    shutil.copytree(data, tmp_path / "data")

    def prepare_and_break(options):
        trainer = prepare(options)
        for name in names:
            (tmp_path / "data" / name).write_bytes(b"broken")
        return trainer

    records, handler = [], logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    prepare, names = training_run.prepare, []
    monkeypatch.setattr(training_run, "prepare", prepare_and_break)
    library = logging.getLogger("dino_detr")
    library.addHandler(handler)

    def train(broken, *options) -> list[str]:
        names[:] = broken
        main(["train", *map(str, (recipe, "--dataset", tmp_path / "data", *options))])
        return records

    yield train
    library.removeHandler(handler)


def test_a_run_outlives_files_that_break(train_and_break, tmp_path):
    """One of each split: named, counted, left out of the figures."""
    options = ["--eval_steps", "9", "--save_steps", "9", "--dataloader_num_workers", "1"]
    messages = train_and_break(
        ["train/000.png", "val/000.png"], "--max_steps", 9, *options, "--output_dir", tmp_path / "run"
    )
    train, val = (tmp_path / "data" / split / "000.png" for split in ("train", "val"))
    assert len([message for message in messages if message.startswith(f"{train}: ")]) == 1  # though met in each epoch
    assert any(message.startswith(f"{val}: ") for message in messages)
    assert 3 <= sum(line["unreadable_images"] for line in lines(tmp_path / "run" / "metrics.jsonl")) <= 5
    assert (tmp_path / "run" / "plots" / "detections.png").exists()


def test_a_run_on_broken_files_ends(train_and_break, tmp_path):
    names = [f"train/{index:03}.png" for index in range(8)]
    with pytest.raises(
        SystemExit, match=r"\d+ of the last \d+ image files .*train/000.png: not an image .*Is the disk"
    ):
        train_and_break(names, "--max_steps", 9, "--logging_steps", 9, "--output_dir", tmp_path / "run")


class Recorder(torch.nn.Module):
    """In place of a detector: keeps the pixels it is given."""

    device = torch.device("cpu")

    def forward(self, pixel_values):
        self.pixels = pixel_values
        return SimpleNamespace(logits=torch.zeros(1, 4, 2), pred_boxes=torch.full((1, 4, 4), 0.5))


def of_mode(mode: str) -> tuple[Image.Image, np.ndarray, dict]:
    """An image that a file of this mode holds, the upright RGB it must become, and how to save it."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (4, 3), dtype=np.uint8)
    indices = rng.integers(0, 4, (40, 60), dtype=np.uint8)
    rgb, grey = colours[indices], indices * 80
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    alpha = np.where(indices[..., None] == 0, 0, 200).astype(np.uint8)
    if mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera lay on its side: shown turned by 90 degrees clockwise
        return Image.fromarray(rgb), np.rot90(rgb, -1), {"exif": exif}
    if mode == "grey":
        return Image.fromarray(grey), as_rgb, {}
    if mode == "grey with alpha":
        return Image.fromarray(np.concatenate([grey[..., None], alpha], 2), "LA"), as_rgb, {}
    if mode == "palette":
        image = Image.fromarray(indices)
        image.putpalette(colours.tobytes())
        return image, rgb, {"transparency": bytes([0, 255, 255, 255])}
    if mode == "RGBA":
        return Image.fromarray(np.concatenate([rgb, alpha], 2)), rgb, {}
    if mode == "CMYK":
        return Image.fromarray(np.concatenate([255 - rgb, 0 * alpha], 2), "CMYK"), rgb, {"format": "TIFF"}
    if mode == "16-bit grey":
        return Image.fromarray(grey.astype(np.uint16) * 256 + 77), as_rgb, {}
    if mode == "32-bit grey":
        return Image.fromarray(grey.astype(np.int32) * 256 + 77), as_rgb, {"format": "TIFF"}
    bits = indices > 1
    return Image.fromarray(bits), np.repeat(bits[..., None] * np.uint8(255), 3, axis=2), {}


MODES = ["turned", "grey", "grey with alpha", "palette", "RGBA", "CMYK", "16-bit grey", "32-bit grey", "1-bit"]


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_kind_are_the_same_everywhere(tmp_path, mode):
    """In the processor (by image and by path), training, evaluation, prediction and the check."""
    image, expected, how = of_mode(mode)
    path = tmp_path / "train" / "image.png"
    path.parent.mkdir()
    image.save(path, **{"format": "PNG", **how})
    expected = torch.tensor(expected.transpose(2, 0, 1).copy())
    height, width = expected.shape[1:]
    (tmp_path / "annotations").mkdir()
    content = {
        "images": [{"id": 1, "file_name": path.name, "width": width, "height": height}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))

    processor = DinoDetrImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    for given in (Image.open(path), str(path)):
        assert torch.equal(processor(given, return_tensors="pt")["pixel_values"][0].to(torch.uint8), expected)
    report = check_split(str(tmp_path), "train")
    assert not report.findings
    plain = build_augmentation("none", [min(height, width)], max(height, width))
    assert torch.equal(TrainingSamples(report.rows, plain, seed=0)[0]["image"], expected)
    recorder = Recorder()
    (found,) = detect(recorder, processor, report.rows, [0])
    assert torch.equal(recorder.pixels[0].to(torch.uint8), expected)
    assert found["boxes"].max(0).tolist() == [0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]
    (source,) = find_images([str(path)])
    assert torch.equal(source.read(), expected)


def test_an_unreadable_image_is_left_out_of_an_evaluation(samples, tmp_path):
    rows, broken = samples.rows, tmp_path / "data" / "train" / "no_size.png"
    broken.write_bytes(b"")
    processor = DinoDetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    detections = list(detect(Recorder(), processor, rows, range(len(rows)), batch_size=1))
    assert sorted(detection["image_id"] for detection in detections) == [1, 2, 5, 6]
    assert [truth["image_id"] for truth in references(rows, detections)] == [1, 2, 5, 6]


@pytest.mark.parametrize("with_sizes", [True, False])
@pytest.mark.parametrize("content", [b"", b"\0", b"GIF89a", b"this is no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_a_file_of_hardly_any_bytes_is_one_defect(content, with_sizes, tmp_path, capsys):
    size = {"width": 60, "height": 40} if with_sizes else {}
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (60, 40), "red").save(tmp_path / name)
    (tmp_path / "a.jpg").write_bytes(content)
    box = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    annotations = {
        "images": [{"id": id_, "file_name": name} | size for id_, name in ((1, "a.jpg"), (2, "b.jpg"))],
        "annotations": [{"id": id_, "image_id": id_} | box for id_ in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(annotations))
    main(["check-data", str(tmp_path / "train.json")])
    said = capsys.readouterr().out
    assert "1 of 2 images, 1 box of 1 class" in said and "a.jpg" in said and "drop 1 image" in said


def test_how_much_of_the_images_is_read(pictures):
    """Pixels, headers or nothing: what is not read is taken on the annotations' word."""
    content = coco()
    content["images"][0] |= {"width": 40, "height": 30}  # the file has 96 x 64
    write(pictures, content)
    truncated = (pictures / "images" / "p1.png").read_bytes()[:-30]
    (pictures / "images" / "p1.png").write_bytes(truncated)
    (pictures / "images" / "p2.png").write_text("no image")
    kinds = {}
    for images in ("pixels", "headers", "none"):
        report = check_split(str(pictures), "train", images=images)
        kinds[images] = {finding.kind for finding in report.findings}
        assert report.rows["width"][0] == (40 if images == "none" else 96)
        assert len(report.rows) == {"pixels": 1, "headers": 2, "none": 3}[images]
    assert {"wrong_size", "not_an_image", "truncated_file"} <= kinds["pixels"]
    assert {"wrong_size", "not_an_image"} <= kinds["headers"] and "truncated_file" not in kinds["headers"]
    assert kinds["none"] == {"outside_box"}
    with pytest.raises(ValueError, match="check_images='some' is none of pixels, headers, none"):
        parse_options(["finetune", "--dataset", str(pictures), "--output_dir", "x", "--check_images", "some"])
