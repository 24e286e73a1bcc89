"""Folders in COCO's layout, or in Roboflow's export of it.

COCO: `annotations/instances_<split>.json`, images in `<split>/`.
Roboflow: `<split>/_annotations.coco.json`, images beside it.
"""

import json
from pathlib import Path

from datasets import Dataset
from PIL import Image

from .rows import detection_features


def load_coco_folder(folder: str, split: str) -> Dataset:
    """Read one split of a folder in either layout.

    Raises:
        FileNotFoundError: the folder has no such split.
        As `load_coco_file`.
    """
    annotation_file = _annotation_file(Path(folder), split)
    return load_coco_file(annotation_file, Path(folder) / split)


def load_coco_file(annotation_file: Path, image_folder: Path) -> Dataset:
    """Read an annotation file whose images are in a folder; they stay files and are decoded when a row is read.

    Class indices are the ranks of the category ids of the annotation file, used or not. Images without
    annotations are kept, and boxes are taken as they are. A missing `area` becomes w * h, a missing `iscrowd`
    0, missing image sizes are read from the images.

    Raises:
        FileNotFoundError: image files are missing.
        ValueError: the annotation file is not JSON, lacks a field, repeats the id of an image or a category, or
            has annotations of images or categories that it does not list.
    """
    content = _read_json(annotation_file)
    image_folder = image_folder.absolute()

    categories = _by_id(content, "categories", ("id", "name"), annotation_file)
    images = _by_id(content, "images", ("id", "file_name"), annotation_file)
    paths = {image_id: str(image_folder / image["file_name"]) for image_id, image in images.items()}
    missing = [path for path in paths.values() if not Path(path).is_file()]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise FileNotFoundError(
            f"{annotation_file} names images that do not exist: {missing[0]}{others}. "
            "Put them there, or remove them from the annotation file."
        )

    ids = sorted(categories)
    class_index = {category_id: index for index, category_id in enumerate(ids)}
    objects = {image_id: {"id": [], "bbox": [], "category": [], "area": [], "iscrowd": []} for image_id in images}
    for position, annotation in enumerate(content["annotations"]):
        where = f"{annotation_file}: annotations[{position}]"
        _require(annotation, ("id", "image_id", "category_id", "bbox"), where)
        if annotation["image_id"] not in images:
            raise ValueError(f"{where} (id {annotation['id']}) is of unknown image_id {annotation['image_id']}.")
        if annotation["category_id"] not in categories:
            raise ValueError(
                f"{where} (id {annotation['id']}) is of unknown category_id {annotation['category_id']}; "
                f"the file's categories are {ids}."
            )
        bbox = annotation["bbox"]
        if not (isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(value, (int, float)) for value in bbox)):
            raise ValueError(f"{where} (id {annotation['id']}) has bbox {bbox}; expected four numbers [x, y, w, h].")
        area = annotation.get("area")
        row = objects[annotation["image_id"]]
        row["id"].append(annotation["id"])
        row["bbox"].append(bbox)
        row["category"].append(class_index[annotation["category_id"]])
        row["area"].append(bbox[2] * bbox[3] if area is None else area)
        row["iscrowd"].append(annotation.get("iscrowd") or 0)

    sizes = {
        image_id: (image["width"], image["height"])
        if image.get("width") and image.get("height")
        else _upright_size(paths[image_id])
        for image_id, image in images.items()
    }
    columns = {
        "image": list(paths.values()),
        "image_id": list(images),
        "width": [width for width, _ in sizes.values()],
        "height": [height for _, height in sizes.values()],
        "objects": list(objects.values()),
    }
    names = [str(categories[category_id]["name"]) for category_id in ids]
    return Dataset.from_dict(columns, features=detection_features(names, ids))


def _annotation_file(folder: Path, split: str) -> Path:
    candidates = {path.parent.name: path for path in folder.glob("*/_annotations.coco.json")}
    candidates |= {path.stem.removeprefix("instances_"): path for path in folder.glob("annotations/instances_*.json")}
    if split not in candidates:
        found = f"it has {', '.join(sorted(candidates))}" if candidates else "it has none"
        raise FileNotFoundError(
            f"{folder} has no split {split!r}; {found}. A split is annotations/instances_<split>.json with images "
            "in <split>/ (COCO), or <split>/_annotations.coco.json with images beside it (Roboflow)."
        )
    return candidates[split]


def _read_json(annotation_file: Path) -> dict:
    try:
        content = json.loads(annotation_file.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON, or of its encoding
        raise ValueError(f"{annotation_file} is not readable as JSON: {error}") from error
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise ValueError(
            f"{annotation_file} lacks {', '.join(missing)}: a COCO annotation file is an object "
            "with the lists images, annotations and categories."
        )
    return content


def _by_id(content: dict, key: str, fields: tuple[str, ...], annotation_file: Path) -> dict[int, dict]:
    entries = {}
    for position, entry in enumerate(content[key]):
        _require(entry, fields, f"{annotation_file}: {key}[{position}]")
        if entry["id"] in entries:
            raise ValueError(f"{annotation_file}: {key}[{position}] repeats the id {entry['id']}; ids must differ.")
        entries[entry["id"]] = entry
    return entries


def _require(entry: dict, fields: tuple[str, ...], where: str) -> None:
    for field in fields:
        if field not in entry:
            raise ValueError(f"{where} has no {field!r}.")


def _upright_size(path: str) -> tuple[int, int]:
    """Width and height in pixels of an image turned as its EXIF orientation says, without decoding its pixels."""
    with Image.open(path) as image:
        width, height = image.size
        turned_sideways = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8
    return (height, width) if turned_sideways else (width, height)
