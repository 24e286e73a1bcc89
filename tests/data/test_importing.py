"""COCO data written as YOLO or VOC, by the formulas of these forms, comes back through `import-data`."""

from pathlib import Path

import pytest
import yaml
from helpers.other_formats import contents, names_of, write_voc, write_xml, write_yolo
from helpers.scenes import write_scenes
from PIL import Image

from dino_detr import cli
from dino_detr.data import category_ids, class_names, load_detection_dataset


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_scenes(folder, {"train": 6, "val": 4})
    return folder


def import_data(form, source, output, *more) -> Path:
    cli.main(["import-data", form, str(source), "--output", str(output), *more])
    return output


def assert_same_boxes(imported: Path, original: Path, prefix=False, tolerance=1e-3):
    for split in ("train", "val"):
        expected_content, expected = contents(original, split)
        content, found = contents(imported, split)
        if prefix:
            expected = {f"{split} {name}": boxes for name, boxes in expected.items()}
        assert set(found) == set(expected)
        assert sum(map(len, expected.values())) > 10
        for name, boxes in expected.items():
            assert [label for label, _ in found[name]] == [label for label, _ in boxes]
            for (_, box), (_, expected_box) in zip(found[name], boxes):
                assert box == pytest.approx(expected_box, abs=tolerance)
        assert sorted((i["width"], i["height"]) for i in content["images"]) == sorted(
            (i["width"], i["height"]) for i in expected_content["images"]
        )
        assert not list(imported.glob("problems.txt"))


def write_description(folder: Path, **content) -> Path:
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder


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


def test_images_of_one_name_are_kept_apart(original, tmp_path):
    source = write_yolo(original, tmp_path / "yolo")
    write_description(source, train=["images/train", "images/val"], names=names_of(original))
    content, boxes = contents(import_data("yolo", source, tmp_path / "coco"), "train")
    assert len(content["images"]) == len(boxes) == 10
    expected = contents(original, "val")[1]["000.png"]
    assert [label for label, _ in boxes["000_2.png"]] == [label for label, _ in expected]
    assert (tmp_path / "coco" / "train" / "000_2.png").read_bytes() == (original / "val" / "000.png").read_bytes()


def test_nothing_is_written_over(original, tmp_path):
    source = write_yolo(original, tmp_path / "yolo")
    write_description(source, train="images/train", names=names_of(original))
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="coco is not an empty folder; choose another --output"):
        import_data("yolo", source, tmp_path / "coco")
    assert [path.name for path in (tmp_path / "coco").iterdir()] == ["mine.txt"]
    with pytest.raises(SystemExit, match=r"there is no .*nowhere"):
        import_data("yolo", tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(SystemExit, match="no XML files"):
        import_data("voc", source, tmp_path / "new")
