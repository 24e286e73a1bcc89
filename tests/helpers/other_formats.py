"""COCO data written as YOLO or VOC, by the formulas of these forms."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dino_detr import cli


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
