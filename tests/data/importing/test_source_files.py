"""Files in = files out + problems named."""

import os

import pytest
from helpers.export_layouts import (
    LABELS,
    picture,
    write,
    xml,
)
from PIL import Image

FORMATS = {"gif": "GIF", "jfif": "JPEG", "mpo": "MPO", "avif": "AVIF", "jp2": "JPEG2000", "bmp": "BMP", "tif": "TIFF"}
FORMATS |= {"TIFF": "TIFF", "webp": "WEBP", "PNG": "PNG", "jpe": "JPEG", "ppm": "PPM", "tga": "TGA"}


def test_every_format_that_pillow_reads_is_imported(load, tmp_path):
    written = set()
    for suffix, form in FORMATS.items():
        try:
            picture(tmp_path / "yolo" / "images" / "train" / f"a_{suffix}.{suffix}", format=form)
        except (OSError, KeyError):  # this Pillow has no writer for it
            continue
        written.add(f"a_{suffix}.{suffix}")
        write(tmp_path / "yolo" / "labels" / "train" / f"a_{suffix}.txt", LABELS)
        xml(tmp_path / "voc" / "Annotations" / f"a_{suffix}.xml", "x")
    os.link(tmp_path / "yolo" / "images" / "train" / "a_gif.gif", tmp_path / "voc" / "a_gif.gif")
    for name in written - {"a_gif.gif"}:
        os.link(tmp_path / "yolo" / "images" / "train" / name, tmp_path / "voc" / name)
    write(tmp_path / "yolo" / "classes.txt", "cat\ndog\n")
    assert len(written) >= 8
    assert load("yolo", tmp_path / "yolo", "--strict").splits == {"train": dict.fromkeys(written, 2)}
    voc = load("voc", tmp_path / "voc", "--strict", "--val_share", "0.2").splits
    assert voc["train"] | voc["val"] == dict.fromkeys(written, 2)


def test_yolo_files_that_nothing_belongs_to_are_named(load, tmp_path):
    root = tmp_path / "yolo"
    for name in ("images/train/a.jpg", "images/train/up.jpg", "images/extra/b.jpg", "images/train/c.heic"):
        picture(root / name, format="JPEG")
    write(root / "labels/train/a.txt", LABELS)
    write(root / "labels/train/up.TXT", LABELS)
    write(root / "images/train/broken.png", "not a picture")
    write(root / "labels/train/broken.txt", LABELS)
    for name in ("labels/train/gone.txt", "hyp.yaml", "images/train/d.jpg.zip", "README.dataset.txt", ".DS_Store"):
        write(root / name, LABELS)
    os.symlink("nowhere.jpg", root / "images/train/link.jpg")
    write(root / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    imported = load("yolo", root)
    assert imported.splits == {"train": {"a.jpg": 2, "up.jpg": 2}}
    named = {"images/extra/b.jpg", "images/train/c.heic", "images/train/broken.png", "labels/train/gone.txt"}
    named |= {"hyp.yaml", "images/train/d.jpg.zip", "images/train/link.jpg"}
    assert {problem.split(": ")[0] for problem in imported.problems} == {str(root / name) for name in named}
    assert f"{root / 'labels/train/broken.txt'} is left out with it" in "".join(imported.problems)
    assert "Note: not looked into: .DS_Store, README.dataset.txt" in imported.said
    with pytest.raises(SystemExit, match=r"(?s)7 things in .*gone.txt: a text file that belongs to no image"):
        load("yolo", root, "--strict")


def test_names_that_look_like_something_else_are_data(load, tmp_path):
    root = tmp_path / "yolo"
    names = (
        "license plate.jpg",
        "LICENSE-1.jpg",
        "readme.jpg",
        "README.2.jpg",
        "notes.jpg",
        "train.jpg",
    )
    for name in names:
        picture(root / name)
        write((root / name).with_suffix(".txt"), LABELS)
    for name in (".trash/old.jpg", ".photo.jpg"):
        picture(root / name)
    write(root / ".hidden.txt", LABELS)
    write(root / "classes.txt", "cat\ndog\n")
    imported = load("yolo", root, "--val_share", "0.5")
    assert imported.splits["train"] | imported.splits["val"] == dict.fromkeys(names, 2)
    hidden = {str(root / name) for name in (".trash/old.jpg", ".photo.jpg", ".hidden.txt")}
    assert hidden <= {problem.split(": ")[0] for problem in imported.problems}


def test_many_files_of_a_kind_are_named_in_the_file_and_counted_on_the_screen(load, tmp_path):
    root = tmp_path / "yolo"
    picture(root / "images" / "train" / "a.jpg")
    for number in range(40):
        write(root / "labels" / "train" / f"gone {number}.txt", LABELS)
    write(root / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2\n")
    write(root / "classes.txt", "cat\ndog\n")
    imported = load("yolo", root)
    assert len(imported.problems) == 41
    lines = [line for line in imported.said.splitlines() if line.startswith("  ")]
    assert len(lines) == 5 and "a.txt:1: 3 numbers" in lines[0] and lines[-1] == "  and 37 more"


def test_file_names_that_are_no_text(load, tmp_path):
    """Bytes that are no UTF-8, as old archives leave them."""
    root = os.fsencode(tmp_path / "yolo" / "images")
    os.makedirs(root)
    try:
        with open(root + b"/caf\xe9.png", "wb") as file:
            Image.new("RGB", (8, 8)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes no such names")
    write(tmp_path / "yolo" / "images" / "other.png", b"no image")
    picture(tmp_path / "yolo" / "images" / "b.png")
    with open(root + b"/nothing\xe9.png", "wb") as file:
        file.write(b"no image")
    write(tmp_path / "yolo" / "classes.txt", b"caf\xe9\n")
    imported = load("yolo", tmp_path / "yolo", "--val_share", "0.5")
    assert sorted(imported.splits["train"] | imported.splits["val"]) == ["b.png", "caf\ufffd\ufffd\ufffd.png"]
    assert len(imported.problems) == 2
