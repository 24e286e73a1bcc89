"""COCO's twelve figures for boxes, from arrays.

The definition is that of pycocotools' `COCOeval`, reproduced to rounding error: its IoU routine is called, its matching
and its averages are written out here over arrays. `COCOeval` makes a Python dict of every detection and loops over
images x classes x areas; with 300 detections an image that takes minutes and gigabytes on COCO's 5,000 images, this
takes seconds and little more than the arrays themselves.
"""

import numpy as np
from pycocotools import mask

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALL_POINTS = np.linspace(0.0, 1.0, 101)
_AREA_RANGES = np.array([[0, 1e5], [0, 32], [32, 96], [96, 1e5]]) ** 2  # all, small, medium, large; both ends included
_MOST_DETECTIONS = 100  # of one class in one image

# Made once: a structured type weighs more than an image's objects.
_DETECTIONS = {
    precision: np.dtype([("image", "i4"), ("label", "i4"), ("rank", "u1"), ("score", precision), ("box", precision, 4)])
    for precision in (np.float32, np.float64)
}
_OBJECTS = np.dtype([("image", "i4"), ("label", "i4"), ("box", "f8", 4), ("area", "f8"), ("crowd", "?")])

# What became of a detection. Ignored: on a crowd, or outside the area range without costing precision.
_WRONG, _RIGHT, _IGNORED = 0, 1, 2


def pack_detections(images, labels, scores, boxes, precision=np.float64) -> np.ndarray:
    """The detections that COCO counts, the 100 best of a class in an image, in one array.

    Args:
        images, labels, scores: `[n]`. Images are numbered from 0 in the order of their ids, because of equal scores in
            two images pycocotools puts the lower id first.
        boxes: `[n, 4]` x, y, width, height in pixels.
        precision: `np.float32` or `np.float64`, in which scores and boxes are kept.

    Returns:
        Structured array with the fields image, label, rank (0 = best of its class in its image), score and box, sorted
        by image, label and rank.
    """
    order = np.lexsort((-scores, labels, images))  # stable: equal scores stay in the order given
    group = np.stack([images[order], labels[order]])
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (group[:, 1:] != group[:, :-1]).any(axis=0)
    position = np.arange(len(order))
    rank = position - np.maximum.accumulate(np.where(starts, position, 0))

    order, rank = order[rank < _MOST_DETECTIONS], rank[rank < _MOST_DETECTIONS]
    packed = np.empty(len(order), dtype=_DETECTIONS[precision])
    packed["image"], packed["label"], packed["rank"] = images[order], labels[order], rank
    packed["score"], packed["box"] = scores[order], boxes[order]
    return packed


def pack_objects(images, labels, boxes, areas, crowds) -> np.ndarray:
    """Annotated objects in one array with the fields image, label, box (x, y, width, height in pixels), area, crowd."""
    packed = np.empty(len(images), dtype=_OBJECTS)
    packed["image"], packed["label"], packed["box"] = images, labels, boxes
    packed["area"], packed["crowd"] = areas, crowds
    return packed


def score(detections: list[np.ndarray], objects: list[np.ndarray], labels) -> tuple[dict, list[dict]]:
    """COCO's figures, over all classes and per class.

    Args:
        detections: arrays of `pack_detections`; together they hold every image once.
        objects: arrays of `pack_objects`.
        labels: the classes to score; the rest is left out.

    Returns:
        The twelve `FIGURES`, 0..1, or -1 where no object could be found at all; and for each label its `AP` and `AP50`.
    """
    # One class at a time, so that the detections are never all copied at once.
    classes = [_score_class(_of_class(detections, label), _of_class(objects, label)) for label in labels]
    precision = np.array([p for p, _, _ in classes]).reshape(-1, len(_AREA_RANGES), len(_IOU_THRESHOLDS))
    recall = np.array([r for _, r, _ in classes]).reshape(-1, len(_AREA_RANGES))
    recall_of_few = np.array([r for _, _, r in classes]).reshape(-1, 2)

    values = [precision[:, 0], precision[:, 0, 0], precision[:, 0, 5], *precision[:, 1:].swapaxes(0, 1)]
    values += [*recall_of_few.T, *recall.T]
    per_class = [{"AP": _mean(p[0]), "AP50": _mean(p[0, 0])} for p in precision]
    return dict(zip(FIGURES, map(_mean, values))), per_class


def _of_class(blocks: list[np.ndarray], label: int) -> np.ndarray:
    rows = np.concatenate([block[block["label"] == label] for block in blocks])
    return rows[np.argsort(rows["image"], kind="stable")]


def _mean(values: np.ndarray) -> float:
    """Mean over the classes that have objects (the others are NaN); -1 if none has, as in pycocotools."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else -1.0


def _score_class(detections: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision `[areas, thresholds]`, recall `[areas]`, recall with 1 and 10 detections an image `[2]`."""
    precision = np.full((len(_AREA_RANGES), len(_IOU_THRESHOLDS)), np.nan)
    recall = np.full(len(_AREA_RANGES), np.nan)
    recall_of_few = np.full(2, np.nan)
    if not len(objects):
        return precision, recall, recall_of_few

    ignored_objects = _outside(objects["area"]) | objects["crowd"]
    verdicts = _judge(detections, objects, ignored_objects)
    by_score = np.argsort(-detections["score"], kind="stable")
    for area, count in enumerate((~ignored_objects).sum(axis=1)):
        if count:
            right = verdicts[area] == _RIGHT
            recall[area] = right.sum(axis=1).mean() / count
            precision[area] = [_average_precision(v[by_score], count) for v in verdicts[area]]
            if area == 0:
                recall_of_few[:] = [right[:, detections["rank"] < most].sum(axis=1).mean() / count for most in (1, 10)]
    return precision, recall, recall_of_few


def _outside(areas: np.ndarray) -> np.ndarray:
    """`[areas, n]`: not in that area range."""
    return (areas < _AREA_RANGES[:, :1]) | (areas > _AREA_RANGES[:, 1:])


def _judge(detections: np.ndarray, objects: np.ndarray, ignored_objects: np.ndarray) -> np.ndarray:
    """Verdict on every detection of a class, `[areas, thresholds, n]`."""
    outside = _outside(detections["box"][:, 2].astype("f8") * detections["box"][:, 3])
    verdicts = np.where(outside, _IGNORED, _WRONG).astype("i1")[:, None].repeat(len(_IOU_THRESHOLDS), axis=1)
    images = np.unique(objects["image"])
    spans = [
        np.searchsorted(rows["image"], images, side) for rows in (detections, objects) for side in ("left", "right")
    ]
    for detections_start, detections_end, objects_start, objects_end in zip(*spans):
        found, wanted = slice(detections_start, detections_end), slice(objects_start, objects_end)
        if detections_start < detections_end:
            crowd = objects["crowd"][wanted]
            # The C routine wants contiguous float64.
            ious = mask.iou(detections["box"][found].astype("f8"), objects["box"][wanted].copy(), crowd.astype("u1"))
            _match(ious, crowd, ignored_objects[:, None, wanted], verdicts[:, :, found])
    return verdicts


def _match(ious: np.ndarray, crowd: np.ndarray, ignored: np.ndarray, verdicts: np.ndarray) -> None:
    """Give the detections of one image and class, best score first, each the object it overlaps most.

    An object is given once, a crowd any number of times, and an ignored one only if no other is left. Of equal
    overlaps the last wins, as in pycocotools.

    Args:
        ious: `[detections, objects]`.
        crowd: `[objects]`.
        ignored: `[areas, 1, objects]`.
        verdicts: `[areas, thresholds, detections]`, written in place.
    """
    taken = np.zeros((*verdicts.shape[:2], len(crowd)), dtype=bool)
    for detection in np.flatnonzero((ious >= _IOU_THRESHOLDS[0]).any(axis=1)):
        overlap = ious[detection]
        open_ = (overlap >= _IOU_THRESHOLDS[:, None]) & (~taken | crowd)
        wanted = open_ & ~ignored
        open_ = np.where(wanted.any(axis=2, keepdims=True), wanted, open_)
        best = overlap.size - 1 - np.where(open_, overlap, -1.0)[:, :, ::-1].argmax(axis=2)
        area, threshold = np.nonzero(open_.any(axis=2))
        best = best[area, threshold]
        taken[area, threshold, best] = True
        verdicts[area, threshold, detection] = np.where(ignored[area, 0, best], _IGNORED, _RIGHT)


def _average_precision(verdicts: np.ndarray, count: int) -> float:
    """Mean over the 101 recall points of the best precision at that recall or above; best scores come first."""
    right = np.cumsum(verdicts == _RIGHT)
    precision = right / (right + np.cumsum(verdicts == _WRONG) + np.spacing(1))
    best_from_here = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best_from_here[np.searchsorted(right / count, _RECALL_POINTS)].mean()
