"""Folders of YOLO and VOC as tools export them."""

import codecs
from pathlib import Path

from PIL import Image

LABELS = "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.2 0.2\n"
BOXES = [("cat", 30, 10, 50, 30), ("dog", 1, 1, 20, 20)]


def picture(path: Path, size=(80, 40), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(map(ord, path.stem)) % 256
    Image.new("RGB", size, (shade, 90, 60)).save(path, **options)
    return path


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def xml(path: Path, file_name: str, boxes=BOXES, head="", root="annotation", extra="") -> Path:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for name, a, b, c, d in boxes
    )
    return write(path, f"{head}<{root}>{extra}<filename>{file_name}</filename>{objects}</{root.split()[0]}>")


def label_studio(root):
    for number in range(4):
        picture(root / "images" / f"a{number}.jpg")
        write(root / "labels" / f"a{number}.txt", LABELS)
    write(root / "classes.txt", "cat\ndog\n")
    write(root / "notes.json", '{"categories": []}')


def labelimg(root):
    for number in range(4):
        picture(root / f"a{number}.jpg")
        write(root / f"a{number}.txt", LABELS)
    write(root / "classes.txt", "\ufeffcat\r\ndog\r\n")


def cvat(root):
    for number in range(4):
        picture(root / "obj_train_data" / f"a{number}.jpg")
        write(root / "obj_train_data" / f"a{number}.txt", LABELS)
    write(root / "obj.names", "cat\ndog\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "".join(f"data/obj_train_data/a{number}.jpg\n" for number in range(4)))


def cvat_ultralytics(root):
    for number in range(4):
        picture(root / "images" / "train" / f"a{number}.jpg")
        write(root / "labels" / "train" / f"a{number}.txt", LABELS)
    write(root / "data.yaml", "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\n")
    write(root / "train.txt", "".join(f"data/images/train/a{number}.jpg\n" for number in range(4)))


def nested(root):
    for number in range(4):
        picture(root / "JPEGImages" / "cam1" / f"p{number}.jpg")
        picture(root / "JPEGImages" / "cam2" / f"q{number}.jpg")
        xml(root / "Annotations" / "cam1" / f"p{number}.xml", f"cam1/p{number}.jpg")
        xml(root / "Annotations" / "cam2" / f"q{number}.xml", f"q{number}.jpg", extra="<folder>cam2</folder>")
    names = [f"cam1/p{number}" for number in range(4)] + [f"q{number}" for number in range(4)]
    write(root / "ImageSets" / "Main" / "train.txt", "\n".join(names))


def quoted(root):
    for number in range(8):
        picture(root / "JPEGImages" / f"my p{number}.jpg")
        xml(root / "Annotations" / f"my p{number}.xml", "x")
    lines = ['"my p0"', "my p1.jpg", "my p2 1", "my p3  -1", "'my p4.xml' ", "JPEGImages\\my p5.jpg", "my p6", "my p7"]
    write(root / "ImageSets" / "Main" / "train.txt", codecs.BOM_UTF8 + "\r\n".join(lines).encode())


def kaggle(root):
    for number in range(8):
        picture(root / "images" / f"p{number}.png")
        xml(root / "annotations" / f"p{number}.xml", f"p{number}.png")


def only_trainval(root):
    kaggle(root)
    write(root / "ImageSets" / "Main" / "trainval.txt", "".join(f"p{number}\n" for number in range(8)))
    write(root / "ImageSets" / "Main" / "cat_trainval.txt", "p0 -1\n")


def assert_complete(imported, counts: dict[str, int], names: dict[int, str]) -> None:
    """All images are there, each with its two boxes, and there is nothing to say."""
    assert {split: len(images) for split, images in imported.splits.items()} == counts
    assert {count for images in imported.splits.values() for count in images.values()} == {2}
    assert imported.names == names and not imported.problems
