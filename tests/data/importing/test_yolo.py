"""COCO data written as YOLO, by its formulas, comes back through `import-data`."""

import pytest
from helpers.other_formats import (
    assert_same_boxes,
    contents,
    import_data,
    names_of,
    write_description,
    write_yolo,
)
from PIL import Image

from dino_detr.data import category_ids, class_names, load_detection_dataset


def test_yolo_comes_back(original, tmp_path):
    """Six decimals of a share of at most 288 pixels are well within a thousandth of a pixel; images stay themselves."""
    source = write_yolo(original, tmp_path / "yolo")
    write_description(
        source, path="../somewhere/else", train="images/train", val="images/val", names=names_of(original)
    )
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    imported = import_data("yolo", source, tmp_path / "coco")
    assert_same_boxes(imported, original)
    assert [category["id"] for category in contents(imported, "val")[0]["categories"]] == list(range(10))
    for path in (original / "train").iterdir():
        assert path.read_bytes() == (imported / "train" / path.name).read_bytes()
    assert before == {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    rows = load_detection_dataset(str(imported), "val")
    assert (category_ids(rows), class_names(rows)) == (list(range(10)), names_of(original))


def test_yolo_as_roboflow_exports_it(original, tmp_path):
    source = write_yolo(original, tmp_path / "export", "{split}/images", "{split}/labels")
    (source / "val").rename(source / "valid")
    numbered = dict(enumerate(names_of(original)))
    write_description(source, train="../train/images", val="../valid/images", test="../test/images", names=numbered)
    imported = import_data("yolo", source / "data.yaml", tmp_path / "coco")
    assert (imported / "problems.txt").read_text().strip().endswith("../test/images does not exist")
    (imported / "problems.txt").unlink()
    assert_same_boxes(imported, original)


def test_yolo_lists_of_images_and_no_description(original, tmp_path):
    source = write_yolo(original, tmp_path / "lists")
    for split in ("train", "val"):
        names = [path.name for path in (source / "images" / split).iterdir()]
        (source / f"{split}.txt").write_text("".join(f"./images/{split}/{name}\n" for name in names))
    write_description(source, train="train.txt", val=["val.txt"], names=names_of(original))
    assert_same_boxes(import_data("yolo", source, tmp_path / "coco"), original)
    (source / "data.yaml").unlink()
    with pytest.raises(SystemExit, match=r"no data.yaml with names, and no classes.txt"):
        import_data("yolo", source, tmp_path / "again")
    (source / "classes.txt").write_text("\n".join(names_of(original)))
    assert_same_boxes(import_data("yolo", source, tmp_path / "again"), original)


@pytest.fixture
def lines(tmp_path):
    """A function that imports one image of 200 x 100 pixels with these lines."""

    def load(text: str, *more, **description) -> list:
        source = tmp_path / "yolo"
        (source / "images" / "train").mkdir(parents=True)
        (source / "labels" / "train").mkdir(parents=True)
        Image.new("RGB", (200, 100)).save(source / "images" / "train" / "a.jpg")
        Image.new("RGB", (200, 100)).save(source / "images" / "train" / "empty.jpg")
        (source / "labels" / "train" / "a.txt").write_text(text)
        write_description(source, train="images/train", names=["cat", "dog"], **description)
        boxes = contents(import_data("yolo", source, tmp_path / "coco", *more), "train")[1]
        assert boxes["empty.jpg"] == []
        return boxes["a.jpg"]

    return load


def test_yolo_polygons_become_their_boxes(lines):
    assert lines("1 0.1 0.2 0.5 0.3 0.3 0.9\n0 0.5 0.5 1 1\n") == [
        ("dog", pytest.approx([20, 20, 80, 70])),
        ("cat", pytest.approx([0, 0, 200, 100])),
    ]


def test_yolo_keypoints_are_no_polygon(lines):
    assert lines("1 0.5 0.5 0.2 0.4 0.1 0.2 2 0.3 0.4 2\n", kpt_shape=[2, 3]) == [
        ("dog", pytest.approx([80, 30, 40, 40]))
    ]


BAD_LINES = """0 0.5 0.5 0.2 0.2
cat 0.5 0.5 0.2 0.2
2 0.5 0.5 0.2 0.2
0 0.5 0.5 0.2

0 50 50 20 20
0 nan 0.5 0.2 0.2
0.5 0.5 0.5 0.2 0.2
0 0.5 0.5 0.2 0.2 0.9
"""


def test_bad_lines_are_named_and_left_out(lines, tmp_path, capsys):
    assert len(lines(BAD_LINES)) == 1
    problems = (tmp_path / "coco" / "problems.txt").read_text().splitlines()
    assert [problem.split("a.txt:")[1].split(":")[0] for problem in problems] == list("2346789")
    output = capsys.readouterr().out
    assert "7 problems" in output
    assert f"{tmp_path / 'yolo' / 'labels' / 'train' / 'a.txt'}:2: 'cat 0.5 0.5 0.2 0.2' is not all numbers" in output
    assert "train: 2 images, 1 boxes" in output


def test_strict_writes_nothing(lines, tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)7 things in .* cannot be read:.*a.txt:9"):
        lines(BAD_LINES, "--strict")
    assert not (tmp_path / "coco").exists()
