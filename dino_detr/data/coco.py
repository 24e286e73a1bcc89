"""COCO annotation files as rows."""

import json
import math
import os
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import numpy as np
import pyarrow as pa
from datasets import Dataset

from .decoding import describe_fault, kind_of_fault
from .findings import Findings
from .image_files import list_image_files, read_upright_size
from .layouts import find_annotations, is_shared
from .rows import SMALLEST_SIDE, detection_features


def load_coco_folder(folder: str, split: str, findings: Findings | None = None) -> Dataset:
    """Read one split of a folder in one of the layouts of `layouts.py`.

    Raises:
        As `find_annotations` and `load_coco_file`.
    """
    return load_coco_file(*find_annotations(Path(folder), split), findings)


def load_coco_file(annotation_file: Path, image_folder: Path, findings: Findings | None = None) -> Dataset:
    """Read an annotation file whose images are in a folder; they stay files and are decoded when a row is read.

    Class indices are the ranks of the category ids of the annotation file, used or not, but for Roboflow's dummy
    (`_find_dummy`). Images without annotations are kept. What cannot be used is left out: images without a file,
    entries that repeat the id of another or lack what identifies them, annotations of unknown images or categories,
    boxes that are not four finite numbers or have no extent. Repeated annotation ids get new ones. A missing `area`
    becomes w * h, a missing `iscrowd` 0, missing image sizes are read from the images. Other boxes are taken as they
    are, within the image or not: see `check_split`.

    Args:
        findings: gets all of this, and the image files in the folder that no annotation file names.

    Raises:
        FileNotFoundError: none of the images is there.
        ValueError: the annotation file is not JSON or lacks one of its three lists, or any category.
    """
    content = _read_json(annotation_file)
    reader = _Reader(annotation_file, Path(os.path.abspath(image_folder)), Findings() if findings is None else findings)
    categories = reader.read_categories(content["categories"])
    images = reader.read_images(content["images"])
    ids = sorted(categories.keys() - _find_dummy(content["categories"], content["annotations"]))
    objects = reader.read_annotations(content["annotations"], images, {id_: rank for rank, id_ in enumerate(ids)})
    if findings is not None and not is_shared(annotation_file, image_folder):
        reader.note_unnamed_files(content["images"])
    features = detection_features([categories[category_id] for category_id in ids], ids)
    paths, widths, heights = zip(*images.values()) if images else ((), (), ())
    columns = [
        pa.array(
            [{"bytes": None, "path": path} for path in paths], pa.struct({"bytes": pa.binary(), "path": pa.string()})
        ),
        pa.array(images, pa.int64()),
        pa.array(widths, pa.int64()),
        pa.array(heights, pa.int64()),
        objects,
    ]
    return Dataset(pa.table(columns, names=list(features)).cast(features.arrow_schema))


class _Reader:
    """Reads the lists of an annotation file; what it leaves out or fills goes to `findings`."""

    def __init__(self, annotation_file: Path, image_folder: Path, findings: Findings):
        self.annotation_file, self.image_folder, self.findings = annotation_file, image_folder, findings
        self.listed_images: set[int] = set()  # with those that are left out

    def read_categories(self, entries: list) -> dict[int, str]:
        """Names by id."""
        categories = {}
        for entry in entries:
            id_ = _whole(_field(entry, "id"))
            if id_ is None or id_ in categories:
                self.findings.add("unusable_category", self.annotation_file, value=entry)
            else:
                categories[id_] = str(entry.get("name", id_))
        if not categories:
            raise ValueError(f"{self.annotation_file} has no categories: boxes need {{'id': 1, 'name': 'cat'}}, say.")
        return categories

    def read_images(self, entries: list) -> dict[int, tuple[str, int, int]]:
        """(path, width, height) by id."""
        images, missing = {}, []
        for entry in entries:
            id_, name = _whole(_field(entry, "id")), _field(entry, "file_name")
            if id_ is None or not isinstance(name, str):
                self.findings.add("unusable_image", self.annotation_file, value=entry)
                continue
            path = str(self.image_folder / name)
            if id_ in self.listed_images:
                self.findings.add("repeated_image_id", path, value=f"id {id_}")
                continue
            self.listed_images.add(id_)
            if not os.path.isfile(path):
                self.findings.add("missing_file", path)
                missing.append(path)
                continue
            width, height = _whole(entry.get("width")), _whole(entry.get("height"))
            if not width or not height:
                try:
                    width, height = read_upright_size(path)
                except OSError as fault:
                    self.findings.add(kind_of_fault(fault), path, value=describe_fault(fault))
                    continue
                self.findings.add("missing_size", path, value=f"{width} x {height}")
            images[id_] = path, width, height
        if missing and len(missing) == len(self.listed_images):
            raise FileNotFoundError(
                f"{self.annotation_file} names {len(missing)} images, and none of them exists: {missing[0]}, say. "
                "Put them there."
            )
        return images

    def read_annotations(
        self, entries: list, images: dict[int, tuple[str, int, int]], class_index: dict[int, int]
    ) -> pa.StructArray:
        """The `objects` of the images, in their order."""
        row_of = {image_id: row for row, image_id in enumerate(images)}
        paths = [path for path, _, _ in images.values()]
        kept = []  # (annotation, its id, row, class index)
        for entry in entries:
            id_, image_id = _whole(_field(entry, "id")), _whole(_field(entry, "image_id"))
            if image_id not in self.listed_images:
                value = f"image_id {_field(entry, 'image_id')}"
                self.findings.add("unknown_image_id", self.annotation_file, id_, value)
                continue
            if image_id not in images:  # went with its image
                continue
            row, category_id = row_of[image_id], _whole(entry.get("category_id"))
            if category_id not in class_index:
                self.findings.add("unknown_category_id", paths[row], id_, f"category_id {entry.get('category_id')}")
            elif fault := _fault_of_box(entry.get("bbox")):
                self.findings.add(fault, paths[row], id_, entry.get("bbox") or "no bbox")
            else:
                kept.append((entry, id_, row, class_index[category_id]))

        next_id = 1 + max((id_ for _, id_, _, _ in kept if id_ is not None), default=0)
        taken, ids, areas, crowds = set(), [], [], []
        for entry, own_id, row, _ in kept:
            id_ = own_id
            if id_ is None or id_ in taken:
                id_, next_id = next_id, next_id + 1
                kind = "missing_annotation_id" if own_id is None else "repeated_annotation_id"
                self.findings.add(kind, paths[row], own_id, f"now {id_}")
            taken.add(id_)
            area, crowd = entry.get("area"), entry.get("iscrowd")
            if not (_is_finite(area) and area >= 0):
                self.findings.add("missing_area", paths[row], id_, area)
                _, _, width, height = entry["bbox"]
                area = width * height
            if crowd not in (0, 1):
                self.findings.add("missing_iscrowd", paths[row], id_, crowd)
                crowd = 0
            ids.append(id_)
            areas.append(area)
            crowds.append(crowd)

        rows = np.array([row for _, _, row, _ in kept], dtype=np.int64)
        order = np.argsort(rows, kind="stable")  # an image's objects as the file has them
        ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(images)))]).astype(np.int32)
        boxes = np.array([entry["bbox"] for entry, _, _, _ in kept], dtype=np.float64).reshape(-1, 4)
        columns = {
            "id": np.array(ids, dtype=np.int64)[order],
            "bbox": pa.FixedSizeListArray.from_arrays(boxes[order].ravel(), 4),
            "category": np.array([index for _, _, _, index in kept], dtype=np.int64)[order],
            "area": np.array(areas, dtype=np.float64)[order],
            "iscrowd": np.array(crowds, dtype=np.int64)[order],
        }
        lists = [pa.ListArray.from_arrays(ends, pa.array(column)) for column in columns.values()]
        return pa.StructArray.from_arrays(lists, names=list(columns))

    def note_unnamed_files(self, entries: list) -> None:
        named = {os.path.normpath(self.image_folder / str(_field(entry, "file_name"))) for entry in entries}
        for path in list_image_files(self.image_folder):
            if path not in named:
                self.findings.add("unnamed_file", path)


def _find_dummy(categories: list, annotations: list) -> set[int]:
    """The id of the category that Roboflow puts before a project's classes, if it is there and has no boxes.

    Its id is 0, it has no supercategory, and it is that of all others.
    """
    dummies = [entry for entry in categories if _field(entry, "id") == 0 and _field(entry, "supercategory") == "none"]
    others = [entry for entry in categories if entry not in dummies]
    is_dummy = (
        len(dummies) == 1
        and bool(others)
        and all(_field(entry, "supercategory") == _field(dummies[0], "name") for entry in others)
        and not any(_field(entry, "category_id") == 0 for entry in annotations)
    )
    return {0} if is_dummy else set()


def _field(entry: object, name: str) -> object:
    return entry.get(name) if isinstance(entry, dict) else None


def _whole(value: object) -> int | None:
    """Of ids and sizes; some tools write 3 as 3.0."""
    return int(value) if _is_finite(value) and value == int(value) else None


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _fault_of_box(bbox: object) -> str | None:
    """The kind of finding; None if it is four finite numbers with an extent."""
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(value, (int, float)) for value in bbox)):
        return "malformed_box"
    if not all(map(math.isfinite, bbox)):
        return "nonfinite_box"
    smaller = min(bbox[2:])
    if smaller < 0:
        return "negative_box"
    return "zero_sized_box" if smaller <= SMALLEST_SIDE else None


class _Image(TypedDict, total=False):
    id: Any
    file_name: Any
    width: Any
    height: Any


class _Annotation(TypedDict, total=False):
    id: Any
    image_id: Any
    category_id: Any
    bbox: Any
    area: Any
    iscrowd: Any


class _Content(TypedDict, total=False):
    """What is read of an annotation file: with outlines, COCO's takes ten times longer and five times the memory."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[Any]


def _read_json(annotation_file: Path) -> dict:
    text = annotation_file.read_bytes()
    try:
        try:
            content = msgspec.json.decode(text, type=_Content)
        except msgspec.MsgspecError:
            content = json.loads(text)  # NaN, which Python writes though JSON has no such thing; or what is no COCO
    except ValueError as error:  # of the JSON, or of its encoding
        raise ValueError(f"{annotation_file} is not readable as JSON: {error}") from error
    lists = content if isinstance(content, dict) else {}
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(lists.get(key), list)]
    if missing:
        raise ValueError(
            f"{annotation_file} lacks {', '.join(missing)}: a COCO annotation file is an object "
            "with the lists images, annotations and categories."
        )
    return content
