"""Columns of `datasets` in which numbers are written as text."""

import pytest
from datasets import Dataset, Image
from helpers.animals import BOX, BOXES, NAMES, columns

from dino_detr.data import category_ids, detection_rows
from dino_detr.data.findings import Findings

TEXT = {
    "iscrowd": (["0", "1", "false"], [0, 1, 0]),
    "area": (["10", "20.5", None], [10, 20.5, 2640]),
    "id": (["7", "008", None], [7, 8, 3]),
    "category_id": (["3", "40", "3"], [0, 1, 0]),
    "bbox": (
        ["[5, 4, 20.5, 10]", '["30", 8, 25, 30]', "[1, 2, 60, 44]"],
        [list(box[1:]) for boxes in BOXES.values() for box in boxes],
    ),
}


@pytest.mark.parametrize("field", TEXT)
def test_columns_of_text_that_say_numbers(images, field):
    """Never taken as absent; the category ids 3 and 40 are no names."""
    given, expected = TEXT[field]
    plain_fields = {**BOX, "category_id": lambda _, box: [3, 40, 40][box[0]]}
    fields = {**plain_fields, field: lambda number, _: given[number]}
    dataset = Dataset.from_dict(columns(images, fields))
    findings = Findings()
    rows = detection_rows(dataset.cast_column("image", Image()), findings=findings)
    name = "category" if field == "category_id" else field
    assert [value for objects in rows["objects"] for value in objects[name]] == expected
    assert category_ids(rows) == [3, 40]
    if field in ("iscrowd", "area", "id"):
        assert [(f.kind, f.examples[0].file) for f in findings.sorted()] == [("text_number", f"column objects.{field}")]


def test_columns_of_text_that_say_no_numbers_are_quoted(images):
    fields = {
        **BOX,
        "category": lambda _, box: NAMES[box[0]],
        "iscrowd": lambda number, _: ["maybe", "2", "0"][number],
        "area": lambda number, _: ["large", "-1", "7"][number],
        "id": lambda number, _: ["a", "1.5", "3"][number],
    }
    dataset = Dataset.from_dict(columns(images, fields, image_id=["img_1", "2", "3"], width=["60", "x", "64"]))
    findings = Findings()
    rows = detection_rows(dataset.cast_column("image", Image()), findings=findings)
    said = "\n".join(line for f in findings.sorted() for line in f.format_examples(9, "/"))
    for quoted in ("'maybe'", "'2'", "'large'", "'-1'", "'a'", "'1.5'", "image_id 'img_1', now 0"):
        assert quoted in said
    assert [value for objects in rows["objects"] for value in objects["iscrowd"]] == [0, 0, 0]
    assert [value for objects in rows["objects"] for value in objects["area"]] == [205, 750, 7]
    assert list(rows["image_id"]) == [0, 1, 2] and list(rows["width"]) == [60, 50, 64]
    boxes = Dataset.from_dict(columns(images, {"bbox": lambda *_: "5;4;20;10", "category": lambda *_: "ant"}))
    with pytest.raises(ValueError, match=r"row 0: objects\.bbox is '5;4;20;10'; expected four numbers"):
        detection_rows(boxes.cast_column("image", Image()))


def test_crowds_that_are_neither_0_nor_1_are_named(images):
    fields = {**BOX, "category": lambda _, box: NAMES[box[0]], "iscrowd": lambda number, _: [1, 2, -1][number]}
    findings = Findings()
    rows = detection_rows(Dataset.from_dict(columns(images, fields)).cast_column("image", Image()), findings=findings)
    assert [value for objects in rows["objects"] for value in objects["iscrowd"]] == [1, 0, 0]
    (finding,) = findings.sorted()
    assert (finding.kind, finding.count, finding.examples[0].value) == ("unusable_iscrowd", 2, "objects.iscrowd 2")
