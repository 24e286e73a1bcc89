"""The row that every detection data set has here, and the classes its features carry."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, List, Value

SMALLEST_SIDE = 1e-5  # pixels; the reference drops smaller boxes
ROWS_OF_A_PART = 20_000  # that are looked at together


def detection_features(names: list[str], ids: list[int]) -> Features:
    """The features of a row, for classes 0..K-1 called `names` whose original category ids are `ids`.

    A row is one image, `{image, image_id, width, height, objects}`, width and height in pixels; `objects` is a
    struct of lists, one entry per annotation: `id`, `bbox` (x, y, w, h in pixels), `category` (class index
    0..K-1), `area` (square pixels), `iscrowd` (0 or 1).

    Names that several categories share get their ids appended (`cell` -> `cell (3)`): `ClassLabel` wants
    different names, and Roboflow exports a supercategory under the name of its only class.
    """
    count = Counter(names)
    names = [name if count[name] == 1 else f"{name} ({id_})" for name, id_ in zip(names, ids)]
    return Features(
        {
            "image": Image(),
            "image_id": Value("int64"),
            "width": Value("int64"),
            "height": Value("int64"),
            "objects": {
                "id": List(Value("int64")),
                "bbox": List(List(Value("float64"), length=4)),
                # A ClassLabel has no place for the original ids; its free-text field `id` is kept by select,
                # filter, save_to_disk and parquet alike.
                "category": List(ClassLabel(names=names, id=json.dumps(ids))),
                "area": List(Value("float64")),
                "iscrowd": List(Value("int64")),
            },
        }
    )


def class_names(dataset: Dataset) -> list[str]:
    """The names of classes 0..K-1."""
    return dataset.features["objects"]["category"].feature.names


def category_ids(dataset: Dataset) -> list[int]:
    """The original category ids of classes 0..K-1, as the annotation file has them, ascending."""
    return json.loads(dataset.features["objects"]["category"].feature.id)


def arrow_table(dataset: Dataset) -> pa.Table:
    """Return all rows as Arrow holds them."""
    table = dataset.with_format("arrow")[:]
    assert isinstance(table, pa.Table)
    return table


def arrow_objects(dataset: Dataset) -> Any:
    """Return the objects of all rows as Arrow holds them: a struct of lists, of which nothing is copied to Python."""
    return arrow_table(dataset.select_columns(["objects"]))["objects"].combine_chunks()


def objects_by_parts(dataset: Dataset) -> Iterator[Any]:
    """Return the objects of some rows at a time, as `arrow_objects` does of all: millions do not fit into memory."""
    batches: Any = dataset.select_columns(["objects"]).with_format("arrow").iter(batch_size=ROWS_OF_A_PART)
    for batch in batches:
        yield batch["objects"].combine_chunks()


def classes_with_objects(dataset: Dataset) -> set[int]:
    """The class indices that any annotation has."""
    parts = (objects.field("category").flatten().unique().to_pylist() for objects in objects_by_parts(dataset))
    return set().union(*parts)


def values_of_objects(dataset: Dataset, field: str) -> list:
    """One field of all annotations of a data set, end to end."""
    return [value for objects in objects_by_parts(dataset) for value in objects.field(field).flatten().to_pylist()]
