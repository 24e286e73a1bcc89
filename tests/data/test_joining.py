"""Several sources become one data set in which nothing is confused: classes by name, images and boxes by their ids."""

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset
from helpers.scenes import write_scenes
from PIL import Image

from dino_detr.data import category_ids, class_names, load_detection_dataset
from dino_detr.data.check import check_sources
from dino_detr.data.joining import (
    describe_join,
    find_pitfalls,
    fit_classes,
    join_rows,
    name_sources,
    source_indices,
    source_names,
)


def write_coco(folder, categories: dict[int, str], boxes: dict[int, list[tuple[int, int]]], split="train"):
    """Write images of 40 x 30 pixels. `boxes` has (category id, x) of each object by image id; y, w, h are 2, 3, 4."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir()
    annotations = []
    for image_id, objects in boxes.items():
        Image.new("RGB", (40, 30), (image_id, 0, sum(map(ord, folder.name)) % 256)).save(
            folder / split / f"{image_id}.png"
        )
        for category, x in objects:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "bbox": [x, 2, 3, 4]}
            )
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in boxes],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def parts(tmp_path) -> dict[str, Dataset]:
    """Sources of which each has ids of the others, classes of its own, and other ids for what they share."""
    write_coco(tmp_path / "farm", {1: "cow", 2: "dog"}, {1: [(1, 5), (2, 9)], 2: [], 7: [(2, 1)]})
    write_coco(tmp_path / "town", {1: "dog", 4: "cat"}, {7: [(4, 3)], 8: [(1, 4), (4, 6), (1, 8)]})
    write_coco(tmp_path / "zoo", {3: "Cat", 9: "emu"}, {1: [(9, 2)]})
    return {name: load_detection_dataset(str(tmp_path / name), "train") for name in ("farm", "town", "zoo")}


def named_boxes(rows) -> list[tuple]:
    """(Colour of the image, class name, x) of every object, by which it is known wherever it ends up."""
    names = class_names(rows)
    return [
        (row["image"].getpixel((0, 0)), names[category], box[0])
        for row in rows
        for category, box in zip(row["objects"]["category"], row["objects"]["bbox"])
    ]


def test_every_image_keeps_its_boxes_under_their_names(parts):
    joined = join_rows(parts)
    assert class_names(joined) == ["cow", "dog", "cat", "Cat", "emu"]
    assert named_boxes(joined) == [box for rows in parts.values() for box in named_boxes(rows)]
    assert source_names(joined) == ["farm", "town", "zoo"] and list(source_indices(joined)) == [0, 0, 0, 1, 1, 2]
    chosen = joined.select([5, 1, 3])  # as images without boxes are dropped
    assert list(source_indices(chosen)) == [2, 0, 1]


def test_ids_of_several_sources_never_meet(parts):
    joined = join_rows(parts)
    assert joined["image_id"][:3] == [1, 2, 7] and len(set(joined["image_id"])) == len(joined)
    ids = [number for row in joined for number in row["objects"]["id"]]
    assert len(set(ids)) == len(ids) == 8
    assert category_ids(joined) == [1, 2, 3, 4, 5]  # `dog` has two ids, and 1 is `cow` and `dog`
    assert category_ids(join_rows({name: parts[name] for name in ("farm", "zoo")})) == [1, 2, 3, 9]


def test_one_source_alone_is_left_as_it_is(parts):
    rows = parts["farm"]
    assert join_rows({"farm": rows}) is rows and source_names(rows) == []


def test_what_was_joined_is_said(parts):
    assert describe_join(parts) == (
        "3 sources, their classes joined by name: farm (3 images, 2 classes), town (2 images, 2 classes), zoo (1 "
        "image, 2 classes); 5 classes in all, 1 of them in several sources"
    )
    alike, *lacking = find_pitfalls(parts)
    assert alike.startswith("'cat' of town and 'Cat' of zoo are two classes, being spelled in two ways")
    assert [sentence.partition(":")[0] for sentence in lacking] == [
        "farm has no class cat, Cat, emu", "town has no class cow, Cat, emu", "zoo has no class cow, dog, cat"
    ]  # fmt: skip
    assert "no source has a class of another" in describe_join({name: parts[name] for name in ("farm", "zoo")})
    assert find_pitfalls({"a": parts["farm"], "b": parts["farm"]}) == []


def test_sources_are_named_by_what_tells_them_apart(tmp_path, monkeypatch):
    for place in ("a/coco", "b/coco", "b/other"):
        (tmp_path / place).mkdir(parents=True)
    a, b, other = (str(tmp_path / place) for place in ("a/coco", "b/coco", "b/other"))
    assert name_sources([a, other, "user/name", "digits"]) == ["coco", "other", "user/name", "digits"]
    assert name_sources([a, b, "digits"]) == ["a/coco", "b/coco", "digits"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="b/coco is twice among the data sets"):
        name_sources([b, "digits", "a/../b/coco"])


def test_rows_fit_a_detector_that_knows_more_classes(parts):
    names = ["emu", "cat", "dog", "Cat"]
    fitted = fit_classes(parts["town"], names)
    assert class_names(fitted) == names and named_boxes(fitted) == named_boxes(parts["town"])
    ids = dict(zip(names, category_ids(fitted)))
    assert (ids["dog"], ids["cat"]) == (1, 4) and len(set(ids.values())) == 4
    with pytest.raises(KeyError):
        fit_classes(parts["farm"], names)


def test_an_image_is_looked_for_in_other_splits_of_all_sources(tmp_path):
    """What one source trains on must not be what another is measured on. In one split it is no matter."""
    write_scenes(tmp_path / "a", {"train": 3, "val": 2})
    write_scenes(tmp_path / "b", {"train": 3, "val": 3})
    shutil.copy(tmp_path / "a" / "train" / "001.png", tmp_path / "b" / "val" / "002.png")
    sources = [str(tmp_path / name) for name in "ab"]
    same = [
        (name, report.split, finding.examples[0].value)
        for name, report in check_sources(sources, ["train", "val"])
        for finding in report.findings
        if finding.kind == "same_image"
    ]
    assert same == [("b", "val", f"{sources[0]}, train, has it as 001.png")]


def test_a_row_is_found_where_it_was_put(parts):
    """Sizes and pictures go with the row, also where the rows of a source were chosen from more."""
    chosen = parts["town"].select([1])
    joined = join_rows({"farm": parts["farm"].select([2, 0]), "town": chosen})
    assert joined["width"] == [40] * 3 and np.array_equal(joined["image_id"], [7, 1, 8])
    assert named_boxes(joined)[-3:] == named_boxes(chosen)
