"""COCO files as annotation tools write them: numbers as text, ids that are none."""

import json
import math

import pytest
from helpers.coco_files import BOXES, coco, examples_of, findings_of, write

from dino_detr.cli import main
from dino_detr.data import category_ids, load_detection_dataset
from dino_detr.data.check import check_split
from dino_detr.data.findings import Findings
from dino_detr.data.sources.coco import clean_annotations

TEXT = {
    "category_id": lambda c: [a.update(category_id=str(a["category_id"])) for a in c["annotations"]],
    "categories": lambda c: [k.update(id=f"{k['id']}.0") for k in c["categories"]],
    "image ids": lambda c: [i.update(id=f"{i['id']:06d}") for i in c["images"]],
    "image_id": lambda c: [a.update(image_id=f"{a['image_id']:06d}") for a in c["annotations"]],
    "annotation ids": lambda c: [a.update(id=str(a["id"])) for a in c["annotations"]],
    "bbox": lambda c: [a.update(bbox=[str(v) for v in a["bbox"]]) for a in c["annotations"]],
    "bbox as JSON": lambda c: [a.update(bbox=json.dumps(a["bbox"])) for a in c["annotations"]],
    "area": lambda c: [a.update(area=str(a["area"])) for a in c["annotations"]],
    "iscrowd": lambda c: [a.update(iscrowd=str(a["iscrowd"])) for a in c["annotations"]],
    "sizes": lambda c: [i.update(width=str(i["width"]), height=str(i["height"])) for i in c["images"]],
}


@pytest.mark.parametrize("what", TEXT)
def test_numbers_written_as_text_are_read_and_said(pictures, what):
    file = write(pictures, coco())
    expected = load_detection_dataset(str(file), "train")
    expected_clean = clean_annotations(coco())
    content = coco()
    TEXT[what](content)
    write(pictures, content)
    rows = load_detection_dataset(str(file), "train")
    assert rows.features == expected.features
    assert rows.remove_columns("image").to_list() == expected.remove_columns("image").to_list()
    assert clean_annotations(content) == expected_clean
    report = check_split(str(pictures), "train")
    assert [finding.kind for finding in report.findings] == ["text_number"]
    assert not report.defects and "'" in report.format()


def test_a_crowd_of_text_is_no_crowd_by_being_there(pictures):
    """Never true for its quotes: "0" and "false" are 0; what is neither is named and taken as 0."""
    content = coco()
    given = ["0", "1", "false", True, "yes", 2]
    for entry, value in zip(content["annotations"], given):
        entry["iscrowd"] = value
    rows = load_detection_dataset(str(write(pictures, content)), "train")
    assert [value for objects in rows["objects"] for value in objects["iscrowd"]] == [0, 1, 0, 1, 0, 0]
    assert [line.split(": ")[-1] for line in examples_of(pictures, "unusable_iscrowd")] == [
        "iscrowd 'yes'",
        "iscrowd 2",
    ]


@pytest.mark.parametrize("value", [2**63, 10**400, 1e300, math.nan, 1.5, "1e300", [], None, True, "img_1"])
def test_values_that_are_no_ids_are_named_with_file_entry_and_field(pictures, value):
    """In the image, the category and the annotation; the rest of the file is read."""
    file = write(pictures, coco())
    for place, field, kinds in (
        ("images", "id", {"unusable_image", "text_id"}),
        ("categories", "id", {"unusable_category", "text_id"}),
        ("annotations", "image_id", {"unknown_image_id"}),
        ("annotations", "category_id", {"unknown_category_id"}),
        ("annotations", "id", {"unusable_annotation_id", "missing_annotation_id"}),
    ):
        content = coco()
        content[place][1][field] = value
        write(pictures, content)
        findings = Findings()
        rows = load_detection_dataset(str(file), "train", findings)
        found = {finding.kind: finding.examples[0] for finding in findings.sorted()}
        assert kinds & found.keys(), (place, field)
        example = found[(kinds & found.keys()).pop()]
        assert example.file == str(file) or example.annotation_id == 2 or "annotation_id" in str(kinds)
        if place != "annotations":
            assert example.value.startswith(f"{place}[1]")
        elif value is not None:
            shown = repr(value) if value != 10**400 else "1000000"
            assert shown in str(example.value)
        assert len(rows) == 3 - ("unusable_image" in found)


def test_image_ids_that_are_names_are_numbered_everywhere_alike(pictures, capsys):
    """Rows carry numbers; results may name images by either."""
    names = {1: "img_c", 2: "img_a", 3: "img_b"}
    content = coco()
    for entry in content["images"]:
        entry["id"] = names[entry["id"]]
    for entry in content["annotations"]:
        entry["image_id"] = names[entry["image_id"]]
    file = write(pictures, content)
    rows = load_detection_dataset(str(file), "train")
    assert list(rows["image_id"]) == [3, 1, 2]
    assert findings_of(pictures) == {"text_id": 3}
    figures = []
    for ids in (names, {1: 3, 2: 1, 3: 2}):
        results = [
            {"image_id": ids[number], "category_id": "1", "bbox": BOXES[0], "score": 0.5 + number / 10}
            for number in names
        ]
        write(pictures, results, "results.json")
        output = pictures / f"{len(figures)}.json"
        main(["evaluate", str(pictures / "results.json"), "--dataset", str(file), "--output", str(output)])
        figures.append(json.loads(output.read_text()))
    assert figures[0] == figures[1]
    assert figures[0]["per_class"]["a"]["AP"] == pytest.approx(1)


def test_what_a_list_is_instead_is_said(pictures):
    for value, message in ((None, r"lacks annotations \(annotations is no list\)"), ({}, "annotations is no list")):
        write(pictures, coco() | {"annotations": value})
        with pytest.raises(ValueError, match=rf"train\.json {'lacks annotations ' if value else '.*'}{message}"):
            load_detection_dataset(str(pictures / "train.json"), "train")


def test_ids_come_out_as_they_were(pictures):
    content = coco()
    content["categories"] = [{"id": "7", "name": None}, {"id": 30.0, "name": ["x"]}]
    for entry in content["annotations"]:
        entry["category_id"] = [7, "30"][entry["category_id"] - 1]
    rows = load_detection_dataset(str(write(pictures, content)), "train")
    assert category_ids(rows) == [7, 30]
    assert rows.features["objects"]["category"].feature.names == ["7", "['x']"]
