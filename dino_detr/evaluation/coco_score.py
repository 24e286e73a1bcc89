"""pycocotools' figures from arrays, which are smaller than its dicts and can be gathered batch by batch."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
MOST_CLASSES = 2**16  # that the 16 bits of a label can tell apart

_MOST_DETECTIONS = 100  # of one class in one image: COCO looks at no more

# Made once: a structured type weighs more than an image's objects.
_DETECTIONS = {
    precision: np.dtype([("image", "i4"), ("label", "u2"), ("score", precision), ("box", precision, 4)])
    for precision in (np.float32, np.float64)
}
_OBJECTS = np.dtype([("image", "i4"), ("label", "u2"), ("box", "f8", 4), ("area", "f8"), ("crowd", "?")])


def pack_detections(images, labels, scores, boxes, precision=np.float64) -> np.ndarray:
    """The detections that COCO counts, the 100 best of a class in an image, in one array.

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


def pack_objects(images, labels, boxes, areas, crowds) -> np.ndarray:
    """Annotated objects in one array with the fields image, label, box (x, y, width, height in pixels), area, crowd."""
    packed = np.empty(len(images), dtype=_OBJECTS)
    packed["image"], packed["label"], packed["box"] = images, labels, boxes
    packed["area"], packed["crowd"] = areas, crowds
    return packed


@dataclass
class Score:
    """
    What `score` computed. All values are 0..1, and -1 where there is no object to find.

    Args:
        figures: the twelve `FIGURES`.
        per_class: of each label, its `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`.
        precision: `[10, 101, K, 4]`, with the 100 best detections of a class in an image: at IoU .50, .55, ... .95; at
            recall 0, .01, ... 1; of each label; of objects of all, small, medium and large areas.
    """

    figures: dict[str, float]
    per_class: list[dict[str, float]]
    precision: np.ndarray


def score(detections: list[np.ndarray], objects: list[np.ndarray], labels) -> Score:
    """COCO's figures, over all classes and per class.

    Args:
        detections: arrays of `pack_detections`; together they hold every image once.
        objects: arrays of `pack_objects`.
        labels: the classes to score; the rest is left out.
    """
    # One class at a time: pycocotools makes a dict of a kilobyte of every detection.
    evaluations = [_evaluate_class(_of_class(detections, label), _of_class(objects, label)) for label in labels]
    # [IoU thresholds, recall points, classes, areas, most detections] and the same without recall points
    precision = np.concatenate([e["precision"] for e in evaluations] or [np.full((10, 101, 0, 4, 3), -1.0)], axis=2)
    recall = np.concatenate([e["recall"] for e in evaluations] or [np.full((10, 0, 4, 3), -1.0)], axis=1)
    precision = precision[..., 2]
    recalls = [recall[..., 0, most] for most in (0, 1, 2)] + [recall[..., area, 2] for area in (1, 2, 3)]
    figures = _precisions(precision) | {name: _mean(values) for name, values in zip(FIGURES[6:], recalls)}
    per_class = [_precisions(precision[:, :, [index]]) for index in range(len(evaluations))]
    return Score(figures, per_class, precision)


def _precisions(precision: np.ndarray) -> dict[str, float]:
    """The first six figures, of `[10, 101, K, 4]`."""
    parts = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *np.moveaxis(precision, -1, 0)[1:]]
    return {name: _mean(values) for name, values in zip(FIGURES, parts)}


def _of_class(blocks: list[np.ndarray], label: int) -> np.ndarray:
    return np.concatenate([block[block["label"] == label] for block in blocks])


def _evaluate_class(found: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """pycocotools' precision and recall of one class."""
    columns = (wanted["image"], wanted["box"], wanted["area"], wanted["crowd"])
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        # ids from 1: pycocotools takes a match with annotation 0 for none
        for number, (image, box, area, crowd) in enumerate(zip(*(c.tolist() for c in columns)), start=1)
    ]
    images = [{"id": int(image)} for image in np.union1d(found["image"], wanted["image"])]
    rows = np.column_stack([found["image"], found["box"], found["score"], np.ones(len(found))]).astype(np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        truth, judged = COCO(), COCO()
        truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1}]}
        truth.createIndex()
        if len(rows):
            judged = truth.loadRes(rows)
        else:  # which loadRes cannot read
            judged.dataset = {**truth.dataset, "annotations": []}
            judged.createIndex()
        evaluation = COCOeval(truth, judged, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def _mean(values: np.ndarray) -> float:
    """Over what has objects to find (the rest is -1); -1 if nothing has."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
