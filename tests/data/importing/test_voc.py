"""VOC of every tool; COCO data written as VOC, by its formulas, comes back through `import-data`."""

import pytest
from helpers.export_layouts import (
    assert_complete,
    kaggle,
    nested,
    only_trainval,
    picture,
    quoted,
    write,
    xml,
)
from helpers.other_formats import assert_same_boxes, contents, import_data, write_voc, write_xml


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


def test_voc_comes_back(original, tmp_path):
    source = write_voc(original, tmp_path / "voc")
    imported = import_data("voc", source, tmp_path / "coco")
    assert_same_boxes(imported, original, prefix=True, tolerance=0)
    assert [category["id"] for category in contents(imported, "val")[0]["categories"]] == list(range(1, 11))


def test_voc_as_roboflow_exports_it(original, tmp_path):
    source = write_voc(original, tmp_path / "voc", "{split}", "{split}", lists=False)
    (source / "val").rename(source / "valid")
    assert_same_boxes(import_data("voc", source, tmp_path / "coco"), original, prefix=True, tolerance=0)


def test_voc_that_counts_from_0(original, tmp_path, capsys):
    """One corner at 0 shows it."""
    source = write_voc(original, tmp_path / "voc", first_pixel=0)
    path = source / "Annotations" / "train 000.xml"
    image = contents(original, "train")[0]["images"][0]
    boxes = contents(original, "train")[1][image["file_name"]]
    write_xml(path, image, [*boxes, ("digit 0", [0, 5, 10, 10])], first_pixel=0)
    imported = import_data("voc", source, tmp_path / "coco")
    assert "below 1" in capsys.readouterr().out
    found = contents(imported, "train")[1]["train 000.png"]
    assert found == [(label, [float(value) for value in box]) for label, box in boxes] + [("digit 0", [0, 5, 10, 10])]


def test_voc_in_one_folder_is_split_by_file_name(original, tmp_path):
    source = write_voc(original, tmp_path / "voc", ".", ".", lists=False)
    with pytest.raises(SystemExit, match=r"no train and val: --val_share 0.2"):
        import_data("voc", source, tmp_path / "coco")
    first = import_data("voc", source, tmp_path / "coco", "--val_share", "0.3")
    second = import_data("voc", source, tmp_path / "coco 2", "--val_share", "0.3")
    splits = {split: set(contents(first, split)[1]) for split in ("train", "val")}
    assert {split: len(names) for split, names in splits.items()} == {"train": 7, "val": 3}
    assert not splits["train"] & splits["val"]
    assert {split: set(contents(second, split)[1]) for split in splits} == splits


def test_bad_xml_is_named_and_left_out(original, tmp_path, capsys):
    source = write_voc(original, tmp_path / "voc")
    folder = source / "Annotations"
    (folder / "train 000.xml").write_text("<annotation>\n<object>\n</annotation>")
    (source / "JPEGImages" / "train 001.png").unlink()
    (source / "JPEGImages" / "train 002.png").write_bytes(b"no image")
    text = (folder / "train 003.xml").read_text().replace("<ymax>", "<ymax>x", 1).replace("<width>", "<width>1", 1)
    (folder / "train 003.xml").write_text(text)
    with open(source / "ImageSets" / "Main" / "val.txt", "a") as file:
        file.write("nothing\n")
    imported = import_data("voc", source, tmp_path / "coco")
    problems = (imported / "problems.txt").read_text()
    assert "6 problems" in capsys.readouterr().out
    for expected in (
        "train 000.xml:3: not readable as XML",
        "train 001.xml: there is no image of it",
        "train 002.png: not an image that can be read",
        "train 003.xml: says 1",
        "train 003.xml: object 1 (digit",
        "val.txt:5: there is no",
    ):
        assert expected in problems
    assert len(contents(imported, "train")[1]) == 3
