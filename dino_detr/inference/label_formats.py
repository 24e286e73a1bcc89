"""Detections as data sets and files that label tools take."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import yaml
from torchvision.transforms.v2.functional import to_pil_image

from ..data.coco_writer import to_coco
from ..data.image_sources import is_url
from .detections import Detections

_SPLIT = "train"  # labels of a detector are made to be corrected and trained on
_IMAGE_FOLDERS = {"coco": _SPLIT, "yolo": f"images/{_SPLIT}", "voc": "JPEGImages"}  # of those that hold the images
_OTHERS = {f"instances_{_SPLIT}.json", "data.yaml", f"{_SPLIT}.txt", "detections.csv", "tasks.json"}


@dataclass
class LabelledImage:
    """
    An image and its detections.

    Args:
        file_name: of its copy, if the format has one.
        entry: as in `detections.json`.
    """

    file_name: str
    entry: dict


def claim_formats(output: Path, formats: list[str], former: set[str], overwrite: bool) -> None:
    """
    Check the folders of the formats, and remove what an earlier call wrote there.

    Args:
        output: the folder of `predict`; each format has a folder of its name in it.
        former: pictures that the earlier call wrote.

    Raises:
        FileExistsError: if one exists and `overwrite` is not given, or it holds what predict did not write.
    """
    stems = {Path(name).stem for name in former}
    for folder in (output / name for name in formats):
        if not folder.exists():
            continue
        if not overwrite:
            raise FileExistsError(f"{folder} exists: choose another --output, or give --overwrite")
        files = [path for path in folder.rglob("*") if not path.is_dir()]
        others = [path for path in files if path.name not in _OTHERS and path.stem not in stems]
        if others or not folder.is_dir():
            raise FileExistsError(f"{[*others, folder][0]} is not predict's; choose another --output")
        shutil.rmtree(folder)


def place_image(found: Detections, stem: str, output: Path, formats: list[str]) -> str:
    """
    Put an image into the folders of the formats that hold images: its file as a hard link if possible, or a PNG file.

    Args:
        found: in the image, with its pixels.
        stem: its name there, without a suffix.

    Returns:
        Its file name.
    """
    original, pixels = Path(found.source.name), found.image
    is_file = not is_url(found.source.name) and original.is_file()
    file_name = stem + (original.suffix if is_file else ".png")
    for folder in (output / name / _IMAGE_FOLDERS[name] for name in formats if name in _IMAGE_FOLDERS):
        folder.mkdir(parents=True, exist_ok=True)
        if not is_file and pixels is not None:
            to_pil_image(pixels).save(folder / file_name)
            continue
        try:
            os.link(original.resolve(), folder / file_name)
        except OSError:  # another file system, or one without links
            shutil.copy2(original, folder / file_name)
    return file_name


def write_coco(folder: Path, images: list[LabelledImage], names: dict) -> None:
    """Write `annotations/instances_train.json`; each annotation has its `score`."""
    entries = []
    for image_id, image in enumerate(images, start=1):
        size = {name: image.entry[name] for name in ("width", "height")}
        objects = []
        for found in image.entry["detections"]:
            x1, y1, x2, y2 = found["box"]
            bbox = [round(value, 4) for value in (x1, y1, x2 - x1, y2 - y1)]
            own = {"category_id": found["category_id"], "score": found["score"]}
            objects.append(own | {"bbox": bbox, "area": round(bbox[2] * bbox[3], 4), "iscrowd": 0})
        entries.append(({"id": image_id, "file_name": image.file_name, **size}, objects))
    _write(folder / "annotations" / f"instances_{_SPLIT}.json", json.dumps(to_coco(entries, names)))


def write_yolo(folder: Path, images: list[LabelledImage], names: dict) -> None:
    """Write `data.yaml`, and a line `class cx cy w h`, in shares of the image, for each object."""
    numbers = {category_id: number for number, category_id in enumerate(names)}
    description: dict = {"path": ".", "train": f"images/{_SPLIT}", "val": f"images/{_SPLIT}"}
    description |= {"names": dict(enumerate(names.values()))}
    _write(folder / "data.yaml", yaml.safe_dump(description, sort_keys=False, allow_unicode=True))
    for image in images:
        lines = []
        for found in image.entry["detections"]:
            (x1, y1, x2, y2), width, height = found["box"], image.entry["width"], image.entry["height"]
            shares = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
            lines.append(" ".join([str(numbers[found["category_id"]]), *(f"{share:.6f}" for share in shares)]) + "\n")
        _write(folder / "labels" / _SPLIT / f"{Path(image.file_name).stem}.txt", "".join(lines))


def write_voc(folder: Path, images: list[LabelledImage], names: dict) -> None:
    """Write an XML file for each image; pixels are whole, counted from 1, and the last one belongs to the box."""
    for image in images:
        root = ElementTree.Element("annotation")
        _add(root, folder=_IMAGE_FOLDERS["voc"], filename=image.file_name)
        _add(ElementTree.SubElement(root, "size"), width=image.entry["width"], height=image.entry["height"], depth=3)
        for found in image.entry["detections"]:
            x1, y1, x2, y2 = (round(value) for value in found["box"])
            corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": max(x2, x1 + 1), "ymax": max(y2, y1 + 1)}
            item = ElementTree.SubElement(root, "object")
            _add(item, name=found["label"], pose="Unspecified", truncated=0, difficult=0)
            _add(ElementTree.SubElement(item, "bndbox"), **corners)
        ElementTree.indent(root)
        path = folder / "Annotations" / f"{Path(image.file_name).stem}.xml"
        _write(path, ElementTree.tostring(root, encoding="unicode") + "\n")
    stems = "".join(f"{Path(image.file_name).stem}\n" for image in images)
    _write(folder / "ImageSets" / "Main" / f"{_SPLIT}.txt", stems)


def write_csv(folder: Path, images: list[LabelledImage], names: dict) -> None:
    """Write a row for each detection: image, label, category_id, score, x1, y1, x2, y2."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "detections.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", "category_id", "score", "x1", "y1", "x2", "y2"])
        for image in images:
            for found in image.entry["detections"]:
                own = [found["label"], found["category_id"], found["score"]]
                table.writerow([image.entry["image"], *own, *found["box"]])


def write_label_studio(folder: Path, images: list[LabelledImage], names: dict) -> None:
    """
    Write tasks with predictions, for a `RectangleLabels` called `label` on an `Image` called `image`.

    Files are named as local storage of the document root `/` serves them.
    """
    tasks = []
    for image in images:
        width, height = image.entry["width"], image.entry["height"]
        results = []
        for found in image.entry["detections"]:
            x1, y1, x2, y2 = found["box"]
            shares = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
            value = {name: round(100 * share, 4) for name, share in shares.items()}
            kind = {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "score": found["score"]}
            size = {"original_width": width, "original_height": height, "image_rotation": 0}
            results.append(kind | size | {"value": value | {"rotation": 0, "rectanglelabels": [found["label"]]}})
        address = image.entry["image"]
        if not is_url(address):
            address = f"/data/local-files/?d={quote(Path(address).resolve().as_posix().lstrip('/'))}"
        prediction = {"model_version": "dino-detr", "result": results}
        if results:
            prediction["score"] = sum(result["score"] for result in results) / len(results)
        tasks.append({"data": {"image": address}, "predictions": [prediction]})
    _write(folder / "tasks.json", json.dumps(tasks, indent=2) + "\n")


WRITERS: dict[str, Callable[[Path, list[LabelledImage], dict], None]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "csv": write_csv,
    "label-studio": write_label_studio,
}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _add(element: ElementTree.Element, **values: object) -> None:
    for name, value in values.items():
        ElementTree.SubElement(element, name).text = str(value)
