"""Annotations as columns of numbers, some 60 bytes each however many there are."""

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np
import pyarrow as pa

from ..findings import Findings
from ..numbers import shown
from ..rows import SMALLEST_SIDE
from .shared_rows import ROWS_TOGETHER

LARGEST = 10**12  # pixels, and more than any image has
LARGEST_PLAIN = 2**62  # of ids: larger ones are looked at more closely


class _Plain(msgspec.Struct, gc=False):
    """An annotation whose fields all are there, and numbers."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int


_DECODER = msgspec.json.Decoder(list[_Plain])


@dataclass
class CocoObjects:
    """
    Usable annotations, in their file's order.

    `images` holds positions, `labels` ranks, `boxes` four numbers each. `without_id` holds the positions of those
    whose number in `ids` means nothing, `unusable_ids` what some of them have instead of one.
    """

    ids: array = field(default_factory=partial(array, "q"))
    images: array = field(default_factory=partial(array, "i"))
    labels: array = field(default_factory=partial(array, "i"))
    boxes: array = field(default_factory=partial(array, "d"))
    areas: array = field(default_factory=partial(array, "d"))
    crowds: array = field(default_factory=partial(array, "b"))
    without_id: array = field(default_factory=partial(array, "q"))
    unusable_ids: dict[int, object] = field(default_factory=dict)

    def add(self, id_: int | None, given_id: object, row: int, label: int, box: list, area: float, crowd: int) -> None:
        if id_ is None:
            self.without_id.append(len(self.ids))
            if given_id is not None:
                self.unusable_ids[len(self.ids)] = given_id
        self.ids.append(id_ or 0)
        self.images.append(row)
        self.labels.append(label)
        self.boxes.extend(box)
        self.areas.append(area)
        self.crowds.append(crowd)

    def add_plain(self, text: bytes, row_of: dict, listed: set, class_index: dict) -> int | None:
        """
        Add the annotations of a piece of JSON at once, if nothing at all is to be said of any of them.

        Args:
            row_of: rows of image ids.
            listed: ids of images, of which those without a row went with their annotations.
            class_index: of category ids.

        Returns:
            How many there are; None if none was added.
        """
        try:
            plain = _DECODER.decode(text)
            ids = np.array([entry.id for entry in plain], dtype=np.int64)
        except (msgspec.MsgspecError, OverflowError):
            return None
        boxes = np.array([entry.bbox for entry in plain], dtype=np.float64).reshape(-1, 4)
        areas = np.array([entry.area for entry in plain], dtype=np.float64)
        crowds = np.array([entry.iscrowd if entry.iscrowd in (0, 1) else -1 for entry in plain], dtype=np.int8)
        rows = np.array([row_of.get(entry.image_id, -1) for entry in plain], dtype=np.int32)
        labels = np.array([class_index.get(entry.category_id, -1) for entry in plain], dtype=np.int32)
        kept = rows >= 0
        is_plain = (
            (abs(boxes) < LARGEST).all()
            and (boxes[:, 2:] > SMALLEST_SIDE).all()
            and ((areas >= 0) & (areas < LARGEST**2)).all()
            and (labels >= 0).all()
            and (crowds >= 0).all()
            and all(plain[position].image_id in listed for position in np.flatnonzero(~kept))
        )
        if not is_plain:
            return None
        columns = (self.ids, ids), (self.images, rows), (self.labels, labels), (self.boxes, boxes)
        for column, values in (*columns, (self.areas, areas), (self.crowds, crowds)):
            column.frombytes(values[kept].tobytes())
        return len(plain)

    def give_ids(self, paths: Sequence[str], findings: Findings) -> None:
        """
        Give new ids to annotations without a usable one, or with one that repeats another's.

        Args:
            paths: of the images, by position.
        """
        ids = np.frombuffer(self.ids, dtype=np.int64)
        has_one = np.ones(len(ids), dtype=bool)
        has_one[np.frombuffer(self.without_id, dtype=np.int64)] = False
        known, keeps = np.flatnonzero(has_one), has_one.copy()
        keeps[known[_find_repeats(ids[known])]] = False
        taken = ids[keeps]
        largest = int(taken.max(initial=0))
        new_ids = itertools.count(1 + largest)
        if largest >= LARGEST_PLAIN:
            used = set(taken.tolist())
            new_ids = (id_ for id_ in itertools.count(1) if id_ not in used)
        for position in np.flatnonzero(~keeps).tolist():
            kind, own_id, given = "repeated_annotation_id", int(ids[position]), self.unusable_ids.get(position)
            if not has_one[position]:
                kind, own_id = "missing_annotation_id" if given is None else "unusable_annotation_id", None
            ids[position] = next(new_ids)
            said = f"{shown(given)}, " if kind == "unusable_annotation_id" else ""
            findings.add(kind, paths[int(self.images[position])], own_id, f"{said}now {ids[position]}")

    def batches(self, num_images: int) -> Iterator[pa.StructArray]:
        """Return the objects of all images as `rows.py` describes them, of 1,000 images at a time."""
        rows = np.frombuffer(self.images, dtype=np.int32)
        order = np.argsort(rows, kind="stable")  # an image's objects as the file has them
        ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_images))])
        columns = [
            np.frombuffer(values, dtype=values.typecode) for values in (self.ids, self.labels, self.areas, self.crowds)
        ]
        boxes = np.frombuffer(self.boxes, dtype=np.float64).reshape(-1, 4)
        for start in range(0, num_images, ROWS_TOGETHER):
            offsets = ends[start : start + ROWS_TOGETHER + 1]
            some = order[offsets[0] : offsets[-1]]
            ids, labels, areas, crowds = (values[some] for values in columns)
            values = {
                "id": pa.array(ids),
                "bbox": pa.FixedSizeListArray.from_arrays(boxes[some].ravel(), 4),
                "category": pa.array(labels.astype(np.int64)),
                "area": pa.array(areas),
                "iscrowd": pa.array(crowds.astype(np.int64)),
            }
            own_offsets = pa.array((offsets - offsets[0]).astype(np.int32))
            lists = [pa.ListArray.from_arrays(own_offsets, column) for column in values.values()]
            yield pa.StructArray.from_arrays(lists, names=list(values))


def _find_repeats(ids: np.ndarray) -> np.ndarray:
    """Return the positions of ids that came before."""
    if (ids[1:] > ids[:-1]).all():
        return np.zeros(0, dtype=np.int64)
    order = ids.argsort(kind="stable")
    ascending = ids[order]
    return order[1:][ascending[1:] == ascending[:-1]]
