"""Class names of YOLO in every form."""

import pytest
from helpers.export_layouts import (
    LABELS,
    picture,
    write,
)

NAMES = {  # what data.yaml says, and the names
    "a list": ("names: [cat, dog]", ["cat", "dog"]),
    "numbers as text": ('names: {"1": dog, "0": cat}', ["cat", "dog"]),
    "the other way round": ("names: {dog: 1, cat: 0}", ["cat", "dog"]),
    "a text": ("names: cat, dog", ["cat", "dog"]),
    "a list in a text": ("names: \"['cat', 'dog']\"", ["cat", "dog"]),
    "a file": ("names: obj.names", ["cat", "dog"]),
    "booleans of YAML 1.1": ("names: [no, Yes]", ["no", "Yes"]),
    "off and on": ("names: {0: off, 1: on}", ["off", "on"]),
    "numbers": ("names: [007, 1.50]", ["007", "1.50"]),
    "null and a date": ("names: [null, 2024-01-01]", ["null", "2024-01-01"]),
    "only nc": ("nc: 2", ["class_0", "class_1"]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_every_form(kind, load, tmp_path):
    text, names = NAMES[kind]
    root = tmp_path / "yolo"
    picture(root / "images" / "train" / "a.jpg")
    write(root / "labels" / "train" / "a.txt", LABELS)
    if kind == "a file":
        write(root / "obj.names", "cat\ndog\n")
    write(root / "data.yaml", f"train: images/train\n{text}\n")
    imported = load("yolo", root)
    assert imported.names == dict(enumerate(names)) and imported.splits == {"train": {"a.jpg": 2}}
    assert ("class_0 to class_1" in imported.said) == (kind == "only nc") and not imported.problems


@pytest.mark.parametrize(
    "text",
    ["names: {cat: 0, kitten: 0}", "names: {0: {name: cat}}", "names: {0: cat, dog: 1}", "names: [[cat]]", "nc: many",
     "names: classes of mine.txt", "names: [cat\ntrain: x", "- cat", "names: [cat]\ntrain: {a: b}", "names: &a [*a]",
     "names: [chat, caf\u00e9]".encode("latin-1")],
)  # fmt: skip
def test_a_description_that_says_nothing_is_named(text, load, tmp_path):
    picture(tmp_path / "yolo" / "images" / "train" / "a.jpg")
    file = write(tmp_path / "yolo" / "data.yaml", text)
    with pytest.raises(SystemExit) as error:
        load("yolo", file)
    assert str(error.value).startswith(f"dino-detr: {file}") and "\n" not in str(error.value)
