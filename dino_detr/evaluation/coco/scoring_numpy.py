"""
The precision and recall of one class, as pycocotools computes them but for all images at once.

The numbers are pycocotools' own, bit for bit: overlaps come from its `mask.iou`, the parameters from its `Params`, and
sums are of whole numbers. It matches in Python, detection by detection, for every threshold and every range of areas.
Here the first detections of all images are matched together, then the second ones, and so on.
"""

from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import Params

_PARAMS = Params(iouType="bbox")
_IOUS = _PARAMS.iouThrs  # [10]
_LEAST_AREAS, _MOST_AREAS = np.array(_PARAMS.areaRng).T  # [4] in pixels: all, small, medium, large


def precision_and_recall(found: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute precision and recall of one class.

    Args:
        found: detections of one class, as `pack_detections` gives them: sorted by image and, in it, by falling score.
        wanted: objects of that class, sorted by image.

    Returns:
        Precision `[10, 101, 4]` at IoU .50 to .95, at recall 0 to 1, of objects of all, small, medium and large areas,
        with 100 detections an image; recall `[10, 4, 3]` with 1, 10 and 100 detections. 0..1, -1 without objects.
    """
    ignored = wanted["crowd"][:, None] | _outside_ranges(wanted["area"])  # [m, 4]
    matched, uncounted = _match(found, wanted, ignored)
    size = found["box"].astype(np.float64)
    uncounted |= ~matched & _outside_ranges(size[:, 2] * size[:, 3])[..., None]
    right, wrong = matched & ~uncounted, ~matched & ~uncounted  # [n, 4, 10]

    position = _position_in_image(found["image"])
    order = np.argsort(-found["score"].astype(np.float64), kind="stable")
    precision, recall = np.full((10, 101, 4), -1.0), np.full((10, 4, 3), -1.0)
    for area, count in enumerate((~ignored).sum(axis=0)):
        if count:
            for index, most in enumerate(_PARAMS.maxDets):
                recall[:, area, index] = right[position < most, area].sum(axis=0) / count
            precision[..., area] = _interpolate(right[order, area].T, wrong[order, area].T, count)
    return precision, recall


def _match(found: np.ndarray, wanted: np.ndarray, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Tell which detections have an object, and which of those have one that is ignored: each `[n, 4, 10]`.

    A detection takes, of the objects left that overlap it enough, one that is not ignored if there is one; of these the
    one of the greatest IoU, of equal ones the last. A crowd is never used up.
    """
    matched = np.zeros((len(found), 4, 10), dtype=bool)
    to_ignored = matched.copy()
    taken = np.zeros((len(wanted), 4, 10), dtype=bool)
    detections, objects, ious = _overlapping(found, wanted)
    for rows in _one_of_each_image(found["image"][detections]):
        width = (ious[rows] > 0).sum(axis=1).max()
        candidates = objects[rows, :width]  # [r, width], best first
        possible = ~taken[candidates] | wanted["crowd"][candidates][..., None, None]
        possible &= ious[rows, :width, None, None] >= _IOUS  # [r, width, 4, 10]
        preferred = possible & ~ignored[candidates][..., None]
        best = np.where(preferred.any(axis=1), preferred.argmax(axis=1), possible.argmax(axis=1))  # [r, 4, 10]
        row, area, threshold = np.nonzero(possible.any(axis=1))
        chosen = candidates[row, best[row, area, threshold]]
        taken[chosen, area, threshold] = True
        matched[detections[rows][row], area, threshold] = True
        to_ignored[detections[rows][row], area, threshold] = ignored[chosen, area]
    return matched, to_ignored


def _overlapping(found: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Find the `k` detections that overlap an object by the least IoU that counts.

    Returns:
        Their indices `[k]`, ascending; the indices `[k, w]` of the objects that each overlaps, and the IoU, both by
        falling IoU, of equal ones the last object first. IoU 0: no object.
    """
    pairs = [np.empty((3, 0))]
    images = np.intersect1d(found["image"], wanted["image"])
    spans = (np.searchsorted(rows["image"], images, side) for rows in (found, wanted) for side in ("left", "right"))
    for first, end, first_object, end_object in zip(*spans):
        objects = wanted[first_object:end_object]
        boxes = found["box"][first:end].astype(np.float64)
        iou: Any = mask.iou(boxes, np.ascontiguousarray(objects["box"]), objects["crowd"].tolist())  # pyright: ignore[reportArgumentType]
        rows, columns = np.nonzero(iou >= _IOUS[0])
        pairs.append(np.stack([rows + first, columns + first_object, iou[rows, columns]]))
    detection, index, iou = np.concatenate(pairs, axis=1)
    order = np.lexsort((-index, -iou, detection))
    detections, row, counts = np.unique(detection[order].astype(np.intp), return_inverse=True, return_counts=True)
    column = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
    shape = (len(detections), counts.max(initial=0))
    objects, ious = np.zeros(shape, dtype=np.intp), np.zeros(shape)
    objects[row, column], ious[row, column] = index[order], iou[order]
    return detections, objects, ious


def _one_of_each_image(images: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the first entries of all images, of the second ones, and so on; `images` is sorted."""
    position = _position_in_image(images)
    order = np.argsort(position, kind="stable")
    return np.split(order, np.bincount(position).cumsum()[:-1]) if len(images) else []


def _position_in_image(images: np.ndarray) -> np.ndarray:
    """Number the entries of each image 0, 1, ...; `images` is sorted."""
    return np.arange(len(images)) - np.searchsorted(images, images)


def _interpolate(right: np.ndarray, wrong: np.ndarray, count: int) -> np.ndarray:
    """Return precision `[10, 101]`, never rising with recall, from the detections `[10, n]` by falling score."""
    true, false = right.cumsum(axis=1, dtype=np.float64), wrong.cumsum(axis=1, dtype=np.float64)
    precision = true / (false + true + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result = np.zeros((10, 101))
    for row, recall, values in zip(result, true / count, precision):
        reached = np.searchsorted(recall, _PARAMS.recThrs, side="left")
        reached = reached[reached < len(recall)]
        row[: len(reached)] = values[reached]
    return result


def _outside_ranges(areas: np.ndarray) -> np.ndarray:
    return (areas[:, None] < _LEAST_AREAS) | (areas[:, None] > _MOST_AREAS)
