"""YOLO in the layouts of every tool."""

import codecs

import pytest
from helpers.export_layouts import (
    LABELS,
    assert_complete,
    cvat,
    cvat_ultralytics,
    label_studio,
    labelimg,
    picture,
    write,
)


def labelimg_in_images(root):
    labelimg(root / "images")


def darknet_beside(root):
    for number in range(4):
        picture(root / "data" / f"a{number}.JPG", format="JPEG")
        write(root / "data" / f"a{number}.TXT", LABELS)
    write(root / "obj.names", "cat\ndog\n")


def of_another_machine(root):
    cvat_ultralytics(root)
    names = [rf'"C:\Users\me\set\images\train\a{number}.jpg"  ' for number in range(4)]
    write(root / "train.txt", codecs.BOM_UTF8 + "\r\n".join(names).encode())
    write(root / "data.yaml", "names: [cat, dog]\npath: /home/somebody/set\ntrain: C:\\set\\train.txt\n")


def in_utf_16(root):
    cvat_ultralytics(root)
    for name in ("train.txt", "data.yaml"):
        write(root / name, (root / name).read_text().encode("utf-16"))


def names_of_other_case(root):
    cvat_ultralytics(root)
    write(root / "train.txt", "".join(f"./Images/train/A{number}.JPG\n" for number in range(4)))


def images_that_are_listed_one_by_one(root):
    cvat_ultralytics(root)
    (root / "train.txt").unlink()
    write(root / "data.yaml", f"names: [cat, dog]\ntrain: {[f'images/train/a{n}.jpg' for n in range(4)]}\n")


def labels_with_both_suffixes(root):
    labelimg(root)
    for number in range(4):
        (root / f"a{number}.txt").rename(root / f"a{number}.jpg.txt")


YOLO = [label_studio, labelimg, labelimg_in_images, darknet_beside, cvat, cvat_ultralytics, of_another_machine]
YOLO += [labels_with_both_suffixes, in_utf_16, names_of_other_case, images_that_are_listed_one_by_one]


@pytest.mark.parametrize("layout", YOLO)
def test_yolo_of_every_tool(layout, load, tmp_path):
    layout(tmp_path / "yolo")
    imported = load("yolo", tmp_path / "yolo", "--val_share", "0.25", "--strict")
    assert_complete(imported, {"train": 3, "val": 1}, {0: "cat", 1: "dog"})


def test_cvat_with_two_splits(load, tmp_path):
    root = tmp_path / "yolo"
    for split in ("train", "valid"):
        picture(root / f"obj_{split}_data" / f"{split}.jpg")
        write(root / f"obj_{split}_data" / f"{split}.txt", LABELS)
        write(root / f"{split}.txt", f"data/obj_{split}_data/{split}.jpg\n")
    write(root / "obj.names", "cat\ndog\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n")
    assert load("yolo", root, "--strict").splits == {"train": {"train.jpg": 2}, "val": {"valid.jpg": 2}}
    (root / "obj.data").unlink()
    assert load("yolo", root).splits == {"train": {"train.jpg": 2}, "val": {"valid.jpg": 2}}


def test_what_is_no_yolo_is_told_which_layouts_are(tmp_path, load):
    picture(tmp_path / "photos" / "a.jpg")
    with pytest.raises(SystemExit, match=r"(?s)photos has no data.yaml with names.*classes.txt.*obj.data"):
        load("yolo", tmp_path / "photos")
    write(tmp_path / "empty" / "classes.txt", "cat\n")
    with pytest.raises(SystemExit, match=r"(?s)no images that can be imported.*images/<split>/.*--val_share"):
        load("yolo", tmp_path / "empty")


def test_lists_that_repeat_or_miss_images_are_told_of(load, tmp_path):
    root = tmp_path / "yolo"
    cvat_ultralytics(root)
    write(root / "train.txt", "images/train/a0.jpg\nimages/train/a0.jpg\n\nimages/train/a9.jpg\nimages/train/a1.jpg\n")
    imported = load("yolo", root)
    assert set(imported.splits["train"]) == {"a0.jpg", "a1.jpg"}
    assert [problem.removeprefix(f"{root}/") for problem in imported.problems] == [
        "train.txt:2: images/train/a0.jpg is listed already",
        "train.txt:4: there is no image images/train/a9.jpg",
        "images/train/a2.jpg: an image of no split",
        "images/train/a3.jpg: an image of no split",
        "labels/train/a2.txt: a text file that belongs to no image",
        "labels/train/a3.txt: a text file that belongs to no image",
    ]


def test_paths_of_another_machine_are_told_of(load, tmp_path):
    of_another_machine(tmp_path / "yolo")
    said = load("yolo", tmp_path / "yolo").said
    assert f"files are called otherwise than written: C:\\set\\train.txt is {tmp_path / 'yolo/train.txt'}, say" in said


def test_a_val_that_is_missing_is_not_train(load, tmp_path):
    root = tmp_path / "yolo"
    label_studio(root)
    write(root / "data.yaml", "train: images\nval: ../valid/images\nnames: [cat, dog]\n")
    imported = load("yolo", root)
    assert set(imported.splits) == {"train"}
    assert imported.problems == [f"{root / 'data.yaml'}: ../valid/images does not exist"]
