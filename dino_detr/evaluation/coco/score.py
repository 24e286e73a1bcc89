"""pycocotools' figures from arrays, which are smaller than its dicts and can be gathered batch by batch."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ...runs.names import FIGURES
from . import scoring_numpy, scoring_pycocotools

SCORERS = {  # the same numbers, the second in twenty times the time
    "numpy": scoring_numpy.precision_and_recall,
    "pycocotools": scoring_pycocotools.precision_and_recall,
}
MOST_CLASSES = 2**16  # that the 16 bits of a label can tell apart

_MOST_DETECTIONS = 100  # of one class in one image: COCO looks at no more

# Made once: a structured type weighs more than an image's objects.
_DETECTIONS = {
    precision: np.dtype([("image", "i4"), ("label", "u2"), ("score", precision), ("box", precision, 4)])
    for precision in (np.float32, np.float64)
}
_OBJECTS = np.dtype([("image", "i4"), ("label", "u2"), ("box", "f8", 4), ("area", "f8"), ("crowd", "?")])


def pack_detections(
    images: np.ndarray, labels: np.ndarray, scores: np.ndarray, boxes: np.ndarray, precision: type = np.float64
) -> np.ndarray:
    """Put the detections that COCO counts, the 100 best of a class in an image, into one array.

    Args:
        images, labels, scores: `[n]`. Images are numbered from 0 in the order of their ids, because of equal scores in
            two images pycocotools puts the lower id first.
        boxes: `[n, 4]` x, y, width, height in pixels.
        precision: `np.float32` or `np.float64`, in which scores and boxes are kept.

    Returns:
        Structured array with the fields image, label, score and box, sorted by image, label and falling score.
    """
    order = np.lexsort((-scores, labels, images))  # stable: equal scores stay in the order given
    group = np.stack([images[order], labels[order]])
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (group[:, 1:] != group[:, :-1]).any(axis=0)
    position = np.arange(len(order))
    rank = position - np.maximum.accumulate(np.where(starts, position, 0))

    order = order[rank < _MOST_DETECTIONS]
    packed = np.empty(len(order), dtype=_DETECTIONS[precision])
    packed["image"], packed["label"] = images[order], labels[order]
    packed["score"], packed["box"] = scores[order], boxes[order]
    return packed


def pack_objects(
    images: np.ndarray, labels: np.ndarray, boxes: np.ndarray, areas: np.ndarray, crowds: ArrayLike
) -> np.ndarray:
    """Put annotated objects into one array: image, label, box (x, y, width, height in pixels), area, crowd."""
    packed = np.empty(len(images), dtype=_OBJECTS)
    packed["image"], packed["label"], packed["box"] = images, labels, boxes
    packed["area"], packed["crowd"] = areas, crowds
    return packed


@dataclass
class Score:
    """
    The result of `score`. All values are 0..1, and -1 where there is no object to find.

    Args:
        figures: the twelve `FIGURES`.
        per_class: of each label, its `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`.
        precision: `[10, 101, K, 4]`, with the 100 best detections of a class in an image: at IoU .50, .55, ... .95; at
            recall 0, .01, ... 1; of each label; of objects of all, small, medium and large areas.
    """

    figures: dict[str, float]
    per_class: list[dict[str, float]]
    precision: np.ndarray


def find_scorer(name: str) -> Callable:
    """Return the one of `SCORERS`, which compute precision and recall of a class; ValueError if there is no such."""
    if name not in SCORERS:
        raise ValueError(f"no scorer {name!r}; there are {', '.join(SCORERS)}")
    return SCORERS[name]


def score(detections: list[np.ndarray], objects: list[np.ndarray], labels: Collection[int], scorer: Callable) -> Score:
    """Compute COCO's figures, over all classes and per class.

    Args:
        detections: arrays of `pack_detections`; together they hold every image once.
        objects: arrays of `pack_objects`.
        labels: the classes to score; the rest is left out.
        scorer: from `find_scorer`.
    """
    precisions, recalls = [np.empty((10, 101, 0, 4))], [np.empty((10, 0, 4, 3))]
    for found, wanted in zip(_of_classes(detections, labels), _of_classes(objects, labels)):
        precision, recall = scorer(found, wanted)
        precisions.append(precision[:, :, None])
        recalls.append(recall[:, None])
    precision, recall = np.concatenate(precisions, axis=2), np.concatenate(recalls, axis=1)
    parts = [recall[..., 0, most] for most in (0, 1, 2)] + [recall[..., area, 2] for area in (1, 2, 3)]
    figures = _precisions(precision) | {name: _mean(values) for name, values in zip(FIGURES[6:], parts)}
    per_class = [_precisions(precision[:, :, [index]]) for index in range(precision.shape[2])]
    return Score(figures, per_class, precision)


def _precisions(precision: np.ndarray) -> dict[str, float]:
    """Return the first six figures, of precision `[10, 101, K, 4]`."""
    parts = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *np.moveaxis(precision, -1, 0)[1:]]
    return {name: _mean(values) for name, values in zip(FIGURES, parts)}


def _of_classes(blocks: list[np.ndarray], labels: Collection[int]) -> Iterator[np.ndarray]:
    """Yield the rows of each class, sorted by image; in an image the order stays."""
    rows = np.concatenate(blocks)
    rows = rows[np.lexsort((rows["image"], rows["label"]))]
    labels = np.fromiter(labels, dtype=rows["label"].dtype)
    for first, end in zip(*(np.searchsorted(rows["label"], labels, side) for side in ("left", "right"))):
        yield rows[first:end]


def _mean(values: np.ndarray) -> float:
    """Average over what has objects to find (the rest is -1); -1 if nothing has."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
