"""COCO annotation files as rows."""

import json
from pathlib import Path

from datasets import Dataset
from PIL import Image

from .layouts import find_annotations
from .rows import detection_features


def load_coco_folder(folder: str, split: str) -> Dataset:
    """Read one split of a folder in one of the layouts of `layouts.py`.

    Raises:
        As `find_annotations` and `load_coco_file`.
    """
    return load_coco_file(*find_annotations(Path(folder), split))


def load_coco_file(annotation_file: Path, image_folder: Path) -> Dataset:
    """Read an annotation file whose images are in a folder; they stay files and are decoded when a row is read.

    Class indices are the ranks of the category ids of the annotation file, used or not, but for the dummy that
    Roboflow exports (`_is_dummy`). Images without
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

    labelled = {annotation.get("category_id") for annotation in content["annotations"]}
    ids = sorted(id_ for id_ in categories if id_ in labelled or not _is_dummy(id_, categories))
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
        else upright_size(paths[image_id])
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


def _is_dummy(category_id, categories: dict[int, dict]) -> bool:
    """Whether a category is the one that Roboflow puts before a project's classes: id 0, supercategory of them all."""
    name = categories[category_id]["name"]
    others = [category for other, category in categories.items() if other != category_id]
    return (
        category_id == 0
        and categories[category_id].get("supercategory") == "none"
        and bool(others)
        and all(category.get("supercategory") == name for category in others)
    )


def _require(entry: dict, fields: tuple[str, ...], where: str) -> None:
    for field in fields:
        if field not in entry:
            raise ValueError(f"{where} has no {field!r}.")


def upright_size(file) -> tuple[int, int]:
    """Width and height in pixels of an image turned as its EXIF orientation says, without decoding its pixels.

    Args:
        file: a path or a file object.
    """
    with Image.open(file) as image:
        width, height = image.size
        turned_sideways = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8
    return (height, width) if turned_sideways else (width, height)
