"""COCO annotations written."""

from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from .image_files import image_names
from .rows import category_ids, class_names


def to_coco(images: Iterable[tuple[dict, list[dict]]], names: dict) -> dict:
    """
    Return what a COCO annotation file holds; annotations are numbered from 1.

    Args:
        images: each one's entry, `{id, file_name, ...}`, with its objects, `{category_id, bbox, area, iscrowd, ...}`.
        names: of the categories, by id.
    """
    entries, annotations = [], []
    for entry, objects in images:
        entries.append(entry)
        for item in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": entry["id"], **item})
    categories = [{"id": id_, "name": name} for id_, name in names.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}


def rows_to_coco(rows: Dataset) -> dict:
    """Return the annotations of rows, with the data set's own category ids."""
    ids = category_ids(rows)
    columns = ("category_id", "bbox", "area", "iscrowd")
    images = []
    row: Any
    for row, name in zip(rows.remove_columns("image"), image_names(rows)):
        objects = row["objects"] | {"category_id": [ids[label] for label in row["objects"]["category"]]}
        values = zip(*(objects[column] for column in columns))
        images.append(({"id": row["image_id"], "file_name": name}, [dict(zip(columns, item)) for item in values]))
    return to_coco(images, dict(zip(ids, class_names(rows))))
