"""COCO data written as YOLO or VOC, by the formulas of these forms, comes back through `import-data`."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from scenes import write_scenes

from dino_detr import cli
from dino_detr.data import category_ids, class_names, load_detection_dataset


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_scenes(folder, {"train": 6, "val": 4})
    return folder


def contents(folder: Path, split: str) -> tuple[dict, dict[str, list]]:
    """The annotation file, and by image file name its (name of the category, bbox)."""
    content = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    boxes = {name: [] for name in files.values()}
    for annotation in content["annotations"]:
        boxes[files[annotation["image_id"]]].append((names[annotation["category_id"]], annotation["bbox"]))
    return content, boxes


def copy(source: Path, target: Path):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def names_of(folder: Path) -> list[str]:
    return [category["name"] for category in contents(folder, "train")[0]["categories"]]


def write_yolo(original: Path, folder: Path, images="images/{split}", labels="labels/{split}") -> Path:
    """Without the data.yaml."""
    names = names_of(original)
    for split in ("train", "val"):
        content, boxes = contents(original, split)
        for image in content["images"]:
            name, width, height = image["file_name"], image["width"], image["height"]
            copy(original / split / name, folder / images.format(split=split) / name)
            lines = [
                f"{names.index(label)} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} "
                f"{w / width:.6f} {h / height:.6f}\n"
                for label, (x, y, w, h) in boxes[name]
            ]
            path = folder / labels.format(split=split) / f"{Path(name).stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines))
    return folder


def write_xml(path: Path, image: dict, boxes: list, extra="", first_pixel=1):
    """Pixels counted from 1, the last one within the box; with `first_pixel=0`, corners as they are."""
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x + first_pixel}</xmin><ymin>{y + first_pixel}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>{extra}</object>\n"
        for label, (x, y, w, h) in boxes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>another name.jpg</filename><size><width>{image['width']}</width>"
        f"<height>{image['height']}</height><depth>3</depth></size>\n{objects}</annotation>"
    )


def write_voc(original: Path, folder: Path, xml="Annotations", images="JPEGImages", lists=True, **arguments) -> Path:
    for split in ("train", "val"):
        content, boxes = contents(original, split)
        stems = []
        for image in content["images"]:
            stem = f"{split} {Path(image['file_name']).stem}"
            stems.append(stem)
            copy(original / split / image["file_name"], folder / images.format(split=split) / f"{stem}.png")
            write_xml(folder / xml.format(split=split) / f"{stem}.xml", image, boxes[image["file_name"]], **arguments)
        if lists:
            path = folder / "ImageSets" / "Main" / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(stems) + "\n")
            (path.parent / f"digit 1_{split}.txt").write_text(f"{stems[0]} -1\n")  # VOC's lists of each class
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
