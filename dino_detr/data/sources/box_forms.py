"""Boxes that are not what they should be, x, y, width, height in pixels, as far as it shows in many of them."""

from typing import NamedTuple

import numpy as np

_FEW = 10  # boxes: too few to judge by those that leave their images
NORMALISED = 1.01  # the largest value of such boxes, rounding included


class Evidence(NamedTuple):
    """The form that boxes seem to have, `normalised`, `corners` or `centres`, and what shows it."""

    form: str
    text: str


def find_box_form(boxes: np.ndarray, sizes: np.ndarray) -> Evidence | None:
    """
    Find out whether boxes are normalised, or corners (x1, y1, x2, y2), or centres (cx, cy, width, height).

    Args:
        boxes: float `[n, 4]`.
        sizes: width and height in pixels of the image of each, int `[n, 2]`; 0 where they are not known.
    """
    usable = np.isfinite(boxes).all(1)
    boxes, sizes = boxes[usable], sizes[usable]
    if not len(boxes):
        return None
    example = f"{boxes[0].round(4).tolist()} in an image of {sizes[0, 0]} x {sizes[0, 1]} pixels, say"
    larger = (sizes > 2).all(1) | (sizes == 0).any(1)
    if larger.all() and boxes.max() <= NORMALISED and boxes.min() >= 1 - NORMALISED:
        return Evidence("normalised", f"no value of {len(boxes):,} boxes is above 1: {example}")
    known = (sizes > 0).all(1)
    boxes, sizes = boxes[known], sizes[known]
    x, y, w, h = boxes.T
    width, height = sizes.T + 1.0
    outside = (x + w > width) | (y + h > height)
    if len(boxes) < _FEW or outside.mean() <= 0.1:
        return None
    share = f"{outside.mean():.0%} of {len(boxes):,} boxes leave their images"
    first = outside.argmax()
    share += f", {boxes[first].round(4).tolist()} one of {sizes[first, 0]} x {sizes[first, 1]} pixels, say"
    if ((w >= x) & (h >= y) & (w <= width) & (h <= height)).mean() > 0.95:
        return Evidence("corners", f"{share}; as x1, y1, x2, y2 they fit")
    if ((x - w / 2 >= -1) & (y - h / 2 >= -1) & (x + w / 2 <= width) & (y + h / 2 <= height)).mean() > 0.95:
        return Evidence("centres", f"{share}; as cx, cy, width, height they fit")
    return None
