"""Boxes that are not what they should be, x, y, width, height in pixels, as far as it shows in many of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_TOGETHER = 10**6  # boxes, looked at at once
_FEW = 10  # boxes: too few to judge by those that leave their images
NORMALISED = 1.01  # the largest value of such boxes, rounding included


class Evidence(NamedTuple):
    """The form that boxes seem to have, `normalised`, `corners` or `centres`, and what shows it."""

    form: str
    text: str


class _Counts(NamedTuple):
    """How many of some boxes are usable, have an image of known size, leave it, and fit it in other forms."""

    usable: int
    unlike_normalised: int
    known: int
    outside: int
    as_corners: int
    as_centres: int


def find_box_form(boxes: np.ndarray, rows: np.ndarray, sizes: np.ndarray) -> Evidence | None:
    """
    Find out whether boxes are normalised, or corners (x1, y1, x2, y2), or centres (cx, cy, width, height).

    Args:
        boxes: float `[n, 4]`.
        rows: which image each is in, int `[n]`.
        sizes: width and height in pixels of the images, int `[images, 2]`; 0 where they are not known.
    """
    parts = [slice(start, start + _TOGETHER) for start in range(0, len(boxes), _TOGETHER)]
    counts = _Counts(*np.sum([_count(boxes[part], sizes[rows[part]]) for part in parts], 0)) if parts else None
    if counts is None or not counts.usable:
        return None
    if not counts.unlike_normalised:
        box, size = _first(boxes, rows, sizes, parts, _is_usable)
        example = f"{box} in an image of {size[0]} x {size[1]} pixels, say"
        return Evidence("normalised", f"no value of {counts.usable:,} boxes is above 1: {example}")
    if counts.known < _FEW or counts.outside / counts.known <= 0.1:
        return None
    share = f"{counts.outside / counts.known:.0%} of {counts.known:,} boxes leave their images"
    box, size = _first(boxes, rows, sizes, parts, _is_outside)
    share += f", {box} one of {size[0]} x {size[1]} pixels, say"
    if counts.as_corners / counts.known > 0.95:
        return Evidence("corners", f"{share}; as x1, y1, x2, y2 they fit")
    if counts.as_centres / counts.known > 0.95:
        return Evidence("centres", f"{share}; as cx, cy, width, height they fit")
    return None


def _count(boxes: np.ndarray, sizes: np.ndarray) -> _Counts:
    """Count in boxes, float `[n, 4]`, with the sizes of their images, int `[n, 2]`."""
    usable, known = _is_usable(boxes, sizes), _is_known(boxes, sizes)
    larger = (sizes > 2).all(1) | (sizes == 0).any(1)
    like_normalised = larger & (boxes <= NORMALISED).all(1) & (boxes >= 1 - NORMALISED).all(1)
    x, y, w, h = boxes[known].T
    width, height = sizes[known].T + 1.0
    as_corners = (w >= x) & (h >= y) & (w <= width) & (h <= height)
    as_centres = (x - w / 2 >= -1) & (y - h / 2 >= -1) & (x + w / 2 <= width) & (y + h / 2 <= height)
    outside = _is_outside(boxes, sizes)
    kinds = usable, usable & ~like_normalised, known, outside, as_corners, as_centres
    return _Counts(*(int(kind.sum()) for kind in kinds))


def _is_usable(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.isfinite(boxes.sum(1))


def _is_known(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return _is_usable(boxes, sizes) & (sizes > 0).all(1)


def _is_outside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return _is_known(boxes, sizes) & (boxes[:, :2] + boxes[:, 2:] > sizes + 1.0).any(1)


def _first(
    boxes: np.ndarray, rows: np.ndarray, sizes: np.ndarray, parts: list[slice], is_one: Callable
) -> tuple[list[float], np.ndarray]:
    """Return the first box that is one of those looked for, rounded, and the size of its image."""
    for part in parts:
        found = np.flatnonzero(is_one(boxes[part], sizes[rows[part]]))
        if len(found):
            return boxes[part][found[0]].round(4).tolist(), sizes[rows[part][found[0]]]
    raise LookupError("none of the boxes is")
