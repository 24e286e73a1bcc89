"""Rows that are kept from start to start, until something that they are made of changes."""

import os
import time

import pytest
from datasets import config as datasets_config
from helpers.coco_files import coco, picture, write

from dino_detr.data import load_detection_dataset
from dino_detr.data.findings import Findings
from dino_detr.data.sources import coco as coco_source


@pytest.fixture
def parsed(tmp_path, monkeypatch) -> list:
    """The annotation files that were parsed, one after the other; all rows are in mapped files."""
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dino_detr.data.sources.shared_rows.SMALLEST_FILE", 1)
    files, read = [], coco_source.read_annotation_json

    def note(file):
        files.append(file)
        return read(file)

    monkeypatch.setattr(coco_source, "read_annotation_json", note)
    return files


@pytest.fixture
def folder(tmp_path):
    content = coco()
    content["annotations"][0]["bbox"] = [1, 1, 0, 5]
    for number in range(3):
        picture(tmp_path / "data" / "train" / f"p{number}.png", number)
    write(tmp_path / "data" / "annotations", content, "instances_train.json")
    settle(tmp_path / "data")
    return tmp_path / "data"


def settle(folder, ago=60.0):
    """As if nothing had changed for a minute."""
    for place, _, names in os.walk(folder):
        for path in [place, *(os.path.join(place, name) for name in names)]:
            os.utime(path, (time.time() - ago, time.time() - ago))


def load(folder, split="train"):
    findings = Findings()
    rows = load_detection_dataset(str(folder), split, findings)
    return rows.with_format("arrow")[:].to_pylist(), [(f.kind, f.count, f.examples) for f in findings.sorted()]


def test_nothing_is_parsed_again(folder, parsed):
    first, part = load(folder), load(folder, "train[:2]")
    assert [kind for kind, *_ in first[1]] == ["zero_sized_box"] and len(parsed) == 2
    assert load(folder) == first and load(folder, "train[:2]") == part and part != first
    assert len(load_detection_dataset(str(folder), "train")) == 3  # without findings: other rows for all that is known
    assert len(parsed) == 3


def change_annotations(folder):
    content = coco()
    content["annotations"][0]["bbox"] = [1, 1, 0, 6]  # of the same length
    write(folder / "annotations", content, "instances_train.json")
    settle(folder / "annotations", 30)


def remove_image(folder):
    (folder / "train" / "p1.png").unlink()


def add_image(folder):
    picture(folder / "train" / "more" / "p9.png")


def cut_rows(folder):
    (file,) = (folder.parent / "cache" / "datasets" / "dino_detr").iterdir()
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.parametrize("change", [change_annotations, remove_image, add_image, cut_rows])
def test_what_changed_is_parsed_again(folder, parsed, change):
    first = load(folder)
    change(folder)
    again = load(folder)
    assert len(parsed) == 2 and (again == first) == (change is cut_rows)
    kinds = {kind for kind, *_ in again[1]}
    assert ("missing_file" in kinds) == (change is remove_image) and ("unnamed_file" in kinds) == (change is add_image)


def test_what_may_still_change_is_not_kept(folder, parsed):
    """A file may change twice within the clock's step."""
    (folder / "train").touch()
    assert load(folder) == load(folder) and len(parsed) == 2


def test_sizes_that_were_read_from_images_are_not_kept(folder, parsed):
    content = coco()
    del content["images"][0]["width"]
    write(folder / "annotations", content, "instances_train.json")
    settle(folder)
    assert load(folder) == load(folder) and len(parsed) == 2


def test_a_record_that_is_none_is_passed_over(folder, parsed, tmp_path):
    first = load(folder)
    (record,) = (tmp_path / "cache" / "dino-detr").glob("rows-*.json")
    for text in (b"", b"{}", b"\xff", b'{"rows": 1}'):
        record.write_bytes(text)
        assert load(folder) == first
    assert len(parsed) == 5
