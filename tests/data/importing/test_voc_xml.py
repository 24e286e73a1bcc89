"""XML files of VOC: what is read, and what is named."""

from pathlib import Path

from helpers.export_layouts import (
    BOXES,
    picture,
    write,
    xml,
)
from helpers.other_formats import contents, import_data, write_xml
from PIL import Image

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


def test_voc_parts_difficult_objects_and_names_with_spaces(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    source = tmp_path / "voc"
    boxes = [("potted plant", [3, 4, 20, 10])]
    write_xml(source / "train" / "a.xml", {"width": 60, "height": 40}, boxes, f"<difficult>1</difficult>{part}")
    Image.new("RGB", (60, 40)).save(source / "train" / "a.JPG", format="JPEG")
    content, found = contents(import_data("voc", source, tmp_path / "coco"), "train")
    assert found == {"a.JPG": boxes}
    assert (content["annotations"][0]["difficult"], content["annotations"][0]["iscrowd"]) == (1, 0)
    assert content["categories"] == [{"id": 1, "name": "potted plant"}]
