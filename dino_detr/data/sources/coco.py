"""COCO annotation files as rows, and as the truth that results are scored against."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features

from ..findings import Findings
from ..numbers import Ids, read_whole, shown
from ..rows import detection_features
from .annotation_json import read_annotation_json
from .box_forms import find_box_form
from .coco_layouts import find_annotations, is_shared
from .coco_reader import CocoObjects, CocoReader, read_field, why_unusable
from .kept_rows import KeptRows
from .shared_rows import share_batches
from .splits import choose_part, split_part

_FORMS = {"normalised": "normalised_boxes", "corners": "corner_boxes", "centres": "centre_boxes"}


def load_coco(source: Path, split: str, part: str = "", findings: Findings | None = None) -> Dataset:
    """Read one split of a folder in one of the layouts of `coco_layouts.py`, or an annotation file, which is one split.

    Images stay files and are decoded when a row is read. Class indices are the ranks of the category ids of the
    annotation file, used or not, but for Roboflow's dummy (`_find_dummy`). Images without annotations are kept. What
    cannot be used is left out: images without a file, or with one outside of the data set's folder, entries that repeat
    the id of another or lack what identifies them, annotations of unknown images or categories, boxes that are not four
    finite numbers or have no extent. Repeated annotation ids get new ones. A missing `area` becomes w * h, a missing
    `iscrowd` 0, missing image sizes are read from the images. Numbers may be written as text. Other boxes are taken as
    they are, within the image or not: see `check_split`.

    Args:
        part: of the split, as `choose_part` takes it, by the names of the image files.
        findings: gets all of this, and the image files in the folder that no annotation file names. Without, boxes that
            are not in pixels are an error.

    Raises:
        FileNotFoundError: there is no such split, or none of the images.
        ValueError: the annotation file is not JSON or lacks one of its three lists, or any category.
    """
    annotation_file, files = find_annotations(source, split)
    names_unnamed = findings is not None and not part and not is_shared(annotation_file, Path(files.folder))
    places = str(annotation_file.resolve()), files.folder, files.root
    kept = KeptRows(*places, part, f"unnamed: {names_unnamed}, refused: {findings is None}")
    found = Findings()
    rows = kept.find(found)
    if rows is None:
        reader = CocoReader(annotation_file, read_annotation_json(annotation_file), found)
        chosen = _choose_images(reader, part, split)
        categories = _read_categories(reader)
        images = reader.read_images(files, chosen)
        rows = _make_rows(reader, categories, images, refuse=findings is None)
        if names_unnamed:
            reader.note_unnamed_files(files, images.values())
        if not reader.opened_images:
            folders = {os.path.dirname(path) for path, _, _ in images.values()}.union(files.folders)
            walked = os.walk(files.folder) if names_unnamed else ()
            kept.keep(rows, [annotation_file, *folders, *(folder for folder, _, _ in walked)], found)
    if findings is not None:
        findings.update(found)
    return rows


def _choose_images(reader: CocoReader, part: str, split: str) -> set[int] | None:
    """Return the positions of the images of a part of the split, None for all."""
    if not part:
        return None
    return set(choose_part(part, [_key(entry) for entry in reader.content["images"]], split + part))


def _read_categories(reader: CocoReader) -> dict[int | str, str]:
    categories = reader.read_categories()
    if not categories:
        wrong = "".join(f" Its categories[0] {why_unusable(entry)}." for entry in reader.content["categories"][:1])
        raise ValueError(
            f"{reader.annotation_file} has no categories: boxes need {{'id': 1, 'name': 'cat'}}, say.{wrong}"
        )
    return categories


def _make_rows(
    reader: CocoReader, categories: dict[int | str, str], images: dict[int | str, tuple[str, int, int]], refuse: bool
) -> Dataset:
    """Return the rows of these images; boxes that are not in pixels are an error or a finding."""
    ids = sorted(categories.keys() - _find_dummy(reader.content), key=lambda id_: reader.category_number[id_])
    objects = reader.read_annotations(images, {id_: rank for rank, id_ in enumerate(ids)})
    sizes = np.array([size for _, *size in images.values()], dtype=np.int64).reshape(-1, 2)
    _judge_boxes(objects, sizes, reader, refuse)
    features = detection_features([categories[id_] for id_ in ids], [reader.category_number[id_] for id_ in ids])
    paths = [path for path, _, _ in images.values()]
    image_ids = np.array([reader.image_number[id_] for id_ in images], dtype=np.int64)
    return share_batches(lambda: _make_batches(features, paths, image_ids, sizes, objects), features.arrow_schema)


def clean_annotations(content: dict, findings: Findings | None = None, name: str = "annotations") -> dict:
    """Return what a COCO annotation file holds as training reads it, but for the image files, which are not looked for.

    Args:
        content: with the three lists of a COCO annotation file.
        findings: gets what is left out and filled in, as in `load_coco`.
        name: of the content, in findings.

    Returns:
        `images` of `id`; `categories` of `id`, `name`; `annotations` of `id`, `image_id`, `category_id`, `bbox`,
        `area`, `iscrowd`. Ids are whole numbers, or text where the content has text that is no number.
    """
    reader = CocoReader(Path(name), content, Findings() if findings is None else findings)
    categories = reader.read_categories()
    images = reader.list_images()
    objects = reader.read_annotations(images, {id_: position for position, id_ in enumerate(categories)})
    image_ids, category_ids = list(images), list(categories)
    boxes = np.frombuffer(objects.boxes).reshape(-1, 4).tolist()
    columns = zip(objects.ids, objects.images, objects.labels, boxes, objects.areas, objects.crowds)
    return {
        "images": [{"id": id_} for id_ in images],
        "categories": [{"id": id_, "name": name} for id_, name in categories.items()],
        "annotations": [
            {"id": id_, "image_id": image_ids[image], "category_id": category_ids[label], "bbox": box}
            | {"area": area, "iscrowd": crowd}
            for id_, image, label, box, area, crowd in columns
        ],
    }


def take_part(content: dict, split: str) -> dict:
    """Return what a COCO annotation file holds of a part of its images, `val[:50%]`; of a whole split, all."""
    _, part = split_part(split)
    if not part or not isinstance(content, dict) or not isinstance(content.get("images"), list):
        return content
    entries = content["images"]
    images = [entries[position] for position in choose_part(part, [_key(entry) for entry in entries], split)]
    ids = Ids(read_field(entry, "id") for entry in entries)
    others = {ids.read(read_field(entry, "id")) for entry in entries}
    others -= {ids.read(read_field(entry, "id")) for entry in images} | {None}
    annotations = content.get("annotations")
    if isinstance(annotations, list):
        annotations = [entry for entry in annotations if ids.read(read_field(entry, "image_id")) not in others]
    return {**content, "images": images, "annotations": annotations}


def _judge_boxes(objects: CocoObjects, sizes: np.ndarray, reader: CocoReader, refuse: bool) -> None:
    """Boxes that are not x, y, width, height in pixels are a defect of the whole file."""
    boxes = np.frombuffer(objects.boxes).reshape(-1, 4)
    evidence = find_box_form(boxes, np.frombuffer(objects.images, dtype=np.int32), sizes)
    if evidence is None:
        return
    if refuse and evidence.form == "normalised":
        raise ValueError(
            f"{reader.annotation_file}: the boxes are normalised, not in pixels: {evidence.text}. "
            "COCO's are x, y, width, height in pixels: convert them."
        )
    reader.findings.add(_FORMS[evidence.form], reader.annotation_file, value=evidence.text)


def _make_batches(
    features: Features, paths: list[str], image_ids: np.ndarray, sizes: np.ndarray, objects: CocoObjects
) -> Iterator[pa.RecordBatch]:
    """Return the rows of `rows.py`, some at a time."""
    start = 0
    for some_objects in objects.batches(len(paths)):
        some = slice(start, start + len(some_objects))
        columns = [
            pa.array([{"bytes": None, "path": path} for path in paths[some]], features["image"].pa_type),
            pa.array(image_ids[some]),
            pa.array(sizes[some, 0]),
            pa.array(sizes[some, 1]),
            some_objects,
        ]
        table = pa.table(columns, names=list(features)).cast(features.arrow_schema)
        yield from table.to_batches()
        start = some.stop


def _find_dummy(content: dict) -> set[int]:
    """The id of the category that Roboflow puts before a project's classes, if it is there and has no boxes.

    Its id is 0, it has no supercategory, and it is that of all others.
    """
    categories = content["categories"]
    dummies = [entry for entry in categories if _is_zero(entry, "id") and read_field(entry, "supercategory") == "none"]
    others = [entry for entry in categories if entry not in dummies]
    is_dummy = (
        len(dummies) == 1
        and bool(others)
        and all(read_field(entry, "supercategory") == read_field(dummies[0], "name") for entry in others)
        and not any(_is_zero(entry, "category_id") for entry in content["annotations"])
    )
    return {0} if is_dummy else set()


def _key(entry: object) -> str:
    """Return what an image is known by, wherever it is in the list."""
    name = read_field(entry, "file_name")
    return name.replace("\\", "/") if isinstance(name, str) else shown(read_field(entry, "id"))


def _is_zero(entry: object, name: str) -> bool:
    value = read_field(entry, name)
    return value == 0 if type(value) is int else read_whole(value) == 0
