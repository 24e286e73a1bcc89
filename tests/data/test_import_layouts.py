"""YOLO and VOC as tools, Windows and Kaggle write them: files in = files out + problems named."""

import codecs
import json
import os
from pathlib import Path

import pytest
from helpers.export_layouts import (
    BOXES,
    LABELS,
    cvat,
    cvat_ultralytics,
    kaggle,
    label_studio,
    labelimg,
    nested,
    only_trainval,
    picture,
    quoted,
    write,
    xml,
)
from PIL import Image

from dino_detr.cli import main


class Imported:
    """What `import-data` made of a folder, and what it said."""

    def __init__(self, form, source, output, capsys, *options):
        main(["import-data", form, str(source), "--output", str(output), *options])
        self.said = capsys.readouterr().out
        problems = output / "problems.txt"
        self.problems = problems.read_text(encoding="utf-8").splitlines() if problems.exists() else []
        self.splits, self.names = {}, {}
        for path in output.glob("annotations/*.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            files = {image["id"]: image["file_name"] for image in content["images"]}
            counts = {name: 0 for name in files.values()}
            for annotation in content["annotations"]:
                counts[files[annotation["image_id"]]] += 1
            self.splits[path.stem.removeprefix("instances_")] = counts
            self.names = {category["id"]: category["name"] for category in content["categories"]}


@pytest.fixture
def load(tmp_path, capsys):
    """A function that imports a folder of the test's, each time into another."""
    outputs = iter(range(100))

    def load(form, source, *options) -> Imported:
        return Imported(form, source, tmp_path / f"coco {next(outputs)}", capsys, *options)

    return load


# --- layouts of YOLO


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


def assert_complete(imported, counts: dict[str, int], names: dict[int, str]) -> None:
    """All images are there, each with its two boxes, and there is nothing to say."""
    assert {split: len(images) for split, images in imported.splits.items()} == counts
    assert {count for images in imported.splits.values() for count in images.values()} == {2}
    assert imported.names == names and not imported.problems


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


# --- nothing is left out without a word


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


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_a_share_of_what_has_no_train(form, load, tmp_path):
    root = tmp_path / "data"
    for split in ("test", "train"):
        picture(root / split / f"{split}.jpg")
        write(root / split / f"{split}.txt", LABELS) if form == "yolo" else xml(root / split / f"{split}.xml", "x")
    if form == "yolo":
        write(root / "classes.txt", "cat\ndog\n")
    with pytest.raises(SystemExit, match=r"no two images that --val_share .*\(train: 1, test: 1\)"):
        load(form, root, "--val_share", "0.5")
    (root / "train" / "train.jpg").unlink()
    with pytest.raises(SystemExit, match=r"no two images that --val_share"):
        load(form, root, "--val_share", "0.5")


# --- VOC


def upper_case(root):
    for number in range(8):
        picture(root / f"p{number}.JPG", format="JPEG")
        xml(root / f"p{number}.XML", "x")


def namespaces(root):
    for number in range(8):
        picture(root / "JPEGImages" / f"p{number}.jpg")
        xml(root / "Annotations" / f"p{number}.xml", "x", root='annotation xmlns="http://example.com/voc"')


def same_names_in_two_folders(root):
    for camera in ("cam1", "cam2"):
        for number in range(4):
            picture(root / camera / "images" / f"p{number}.jpg")
            xml(root / camera / "annotations" / f"p{number}.xml", f"p{number}.jpg")


def cvats(root):
    kaggle(root)
    write(root / "ImageSets" / "Main" / "default.txt", "p0\n")
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\ncat:1,2,3::\n")
    picture(root / "SegmentationClass" / "p0.png")


def another_encoding(root):
    kaggle(root)
    for number, encoding in enumerate(["gbk", "shift_jis", "utf-16", "latin-1", "big5", "euc-kr"]):
        text = f'<?xml version="1.0" encoding="{encoding}"?>\n<annotation><filename>x</filename>'
        text += (root / "annotations" / f"p{number}.xml").read_text().partition("</filename>")[2]
        write(root / "annotations" / f"p{number}.xml", text.encode(encoding))


def xml_with_both_suffixes(root):
    for number in range(8):
        picture(root / f"p{number}.jpg")
        xml(root / f"p{number}.jpg.xml", "")


VOC = [nested, quoted, kaggle, upper_case, namespaces, same_names_in_two_folders, only_trainval, cvats]
VOC += [another_encoding, xml_with_both_suffixes]


@pytest.mark.parametrize("layout", VOC)
def test_voc_of_every_tool(layout, load, tmp_path):
    layout(tmp_path / "voc")
    imported = load("voc", tmp_path / "voc", "--val_share", "0.25", "--strict")
    assert_complete(imported, {"train": 6, "val": 2}, {1: "cat", 2: "dog"})


def test_trainval_is_train_without_val(load, tmp_path):
    kaggle(tmp_path / "voc")
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    write(lists / "trainval.txt", "p0\np1\np2\np3\n")
    write(lists / "val.txt", "p3\n")
    imported = load("voc", tmp_path / "voc")
    assert {split: set(images) for split, images in imported.splits.items()} == {
        "train": {"p0.png", "p1.png", "p2.png"},
        "val": {"p3.png"},
    }
    assert "train is what trainval.txt has and no other list" in imported.said
    assert len([problem for problem in imported.problems if "in no split" in problem]) == 4  # p4 to p7
    assert len(imported.problems) == 8


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


def test_bad_xml_does_not_end_the_others(load, tmp_path):
    root = tmp_path / "voc"
    for name in ("good", "laughs", "unknown", "wrong", "cut", "other", "nothing", "stray", "far"):
        picture(root / "images" / f"{name}.png")
        xml(root / "annotations" / f"{name}.xml", f"{name}.png")
    folder = root / "annotations"
    xml(folder / "laughs.xml", "&b;", head=LAUGHS)
    xml(folder / "unknown.xml", "x", head='<?xml version="1.0" encoding="no-such-code"?>')
    write(folder / "wrong.xml", "<annotation><filename>\u732b\u72d7</filename></annotation>".encode("gbk"))
    write(folder / "cut.xml", (folder / "good.xml").read_bytes()[:100])
    write(folder / "other.xml", "<annotations><image/></annotations>")
    write(folder / "nothing.xml", b"")
    (folder / "stray.xml").unlink()
    xml(folder / "far.xml", "far.png", boxes=[("cat", 1, 1, 1e308, 9), ("cat", 1, 1, "nan", 9), *BOXES])
    imported = load("voc", root, "--val_share", "0.5")
    assert imported.splits["train"] | imported.splits["val"] == {"good.png": 2, "far.png": 2}
    said = {Path(problem.split(":")[0]).name: problem for problem in imported.problems}
    for name, expected in {
        "laughs.xml": "not read: it defines entities",
        "unknown.xml": "Python knows no encoding 'no-such-code'",
        "wrong.xml": "not readable as utf-8",
        "cut.xml": ":1: not readable as XML",
        "other.xml": "no VOC annotation: its root is <annotations>",
        "nothing.xml": "not readable as XML",
        "stray.png": "an image without an XML file",
        "far.xml": "object 2 (cat) has no name, or a bndbox that is not finite",
    }.items():
        assert expected in said[name]
        if name.endswith(".xml") and name != "far.xml":
            assert f"{name.replace('xml', 'png')} is left out with it" in said[name]
    assert len(imported.problems) == 9


def test_every_bndbox_of_an_xml_is_read_or_named(load, tmp_path):
    """Tags in another case are read; a second box of an object and boxes elsewhere are told of."""
    root = tmp_path / "voc"
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    part = f"<part><name>head</name>{box}</part>"
    for name, objects in {
        "case": f"<Object><Name>cat</Name>{box.replace('xmin', 'Xmin').replace('bndbox', 'BndBox')}</Object>",
        "part": f"<object><name>cat</name>{part}{box}</object>",
        "two": f"<object><name>cat</name>{box}{box}</object>",
        "deep": f"<objects><object><name>cat</name>{box}</object></objects><object><name>cat</name>{box}</object>",
    }.items():
        picture(root / "JPEGImages" / f"{name}.jpg")
        write(
            root / "Annotations" / f"{name}.xml", f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
        )
    imported = load("voc", root, "--val_share", "0.5")
    assert imported.splits["train"] | imported.splits["val"] == {f"{n}.jpg": 1 for n in ("case", "part", "two", "deep")}
    said = sorted(problem.partition("Annotations/")[2] for problem in imported.problems)
    assert said == [
        "deep.xml: 1 bndbox lie outside of the annotation's objects, and are left out",
        "two.xml: object 1 (cat) has 2 bndbox, of which the first is taken",
    ]


def test_an_image_that_is_not_certain_is_not_taken(load, tmp_path):
    root = tmp_path / "voc"
    for camera in ("cam1", "cam2"):
        picture(root / camera / "p.jpg")
    xml(root / "Annotations" / "p.xml", "x.jpg")
    picture(root / "cam1" / "q.jpg")
    xml(root / "Annotations" / "q.xml", "x.jpg")
    xml(root / "more" / "q.xml", "x.jpg")
    picture(root / "cam1" / "r.jpg")
    xml(root / "Annotations" / "r.xml", "r.jpg")
    imported = load("voc", root, "--val_share", "0.5")
    assert sorted(imported.splits["train"] | imported.splits["val"]) == ["q.jpg", "r.jpg"]
    assert any(f"its image may be {root / 'cam1/p.jpg'} or {root / 'cam2/p.jpg'}" in text for text in imported.problems)
    assert any("is described by" in text and "already" in text for text in imported.problems)


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
