"""Which detections are right, and what is wrong with the others: confusion, calibration and errors of each image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from pycocotools.mask import iou as box_iou

from .coco.score import pack_detections

MATCHING_IOU = 0.5  # from which a detection has found an object
NEAR_IOU = 0.1  # from which it has tried to: less is a false detection
ERRORS = ("missed", "wrong class", "badly placed", "false")

_BINS = 10  # of scores


@dataclass
class ImageMatches:
    """
    The detections and the objects of one image, each with its verdict.

    Args:
        scores, labels, boxes: of the detections, best first; `[n]`, `[n]`, `[n, 4]` xyxy px.
        verdicts: of the detections: `right`, `wrong class`, `badly placed`, `false`, or `crowd`, which is neither right
            nor wrong.
        partners: `[n]`, the object that a detection is matched with, -1 where there is none.
        true_labels, true_boxes: of the objects; `[m]`, `[m, 4]` xyxy px.
        true_verdicts: of the objects: `right`, `wrong class`, `badly placed`, `missed` or `crowd`.
    """

    scores: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    verdicts: np.ndarray
    partners: np.ndarray
    true_labels: np.ndarray
    true_boxes: np.ndarray
    true_verdicts: np.ndarray

    def count_errors(self) -> list[int]:
        """Count each of `ERRORS`."""
        missed = int(np.count_nonzero(self.true_verdicts == "missed"))
        return [missed, *(int(np.count_nonzero(self.verdicts == error)) for error in ERRORS[1:])]


@dataclass
class Errors:
    """
    The errors over a data set.

    Args:
        threshold: the score from which detections are counted in all but `calibration`: that of the best F1 (the
            harmonic mean of precision and recall) over all classes together. Where no detection is right, that of as
            many detections as there are objects. None without detections.
        precision, recall: at the threshold; None where there is nothing to compute them from.
        confusion: int `[K + 1, K + 1]`, true class by predicted class; the last row and column are the background:
            false detections and objects not found, badly placed ones in both.
        calibration: for each tenth of the scores, `{"from", "to", "detections", "right", "share_right", "mean_score"}`,
            the last two None without detections; None if there are scores outside 0..1.
        counts: int `[images, 4]`, how many of each of `ERRORS`, in the order of the references.
    """

    threshold: float | None
    precision: float | None
    recall: float | None
    confusion: np.ndarray
    calibration: list[dict] | None
    counts: np.ndarray


def match_image(detection: dict | None, reference: dict, threshold: float = -np.inf) -> ImageMatches:
    """
    Match the detections that COCO counts, the 100 best of a class, with objects: see `match_detections`.

    Args:
        detection: `{scores [n], labels [n], boxes [n, 4] xyxy px}`, or None if the image has none.
        reference: `{labels [m], boxes [m, 4] xyxy px, iscrowd [m]}`.
        threshold: detections of a lower score are left out.
    """
    detection = {"scores": (), "labels": (), "boxes": ()} if detection is None else detection
    scores, labels = (np.asarray(detection[name]) for name in ("scores", "labels"))
    kept = scores >= threshold
    found = pack_detections(
        np.zeros(np.count_nonzero(kept), dtype="i8"), labels[kept], scores[kept], to_xywh(detection["boxes"])[kept]
    )
    found = found[np.argsort(-found["score"], kind="stable")]
    return match_detections(found["score"], found["label"].astype("i8"), found["box"], reference)


def match_detections(scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray, reference: dict) -> ImageMatches:
    """
    Match detections with objects, in three rounds.

    In each, the best detection comes first and takes, of the objects that are left, that which it overlaps most.

    1. Same class, IoU at least 0.5: `right`. This is COCO's matching, and a detection that has only a crowd of its
       class to match is a `crowd`'s.
    2. Another class, IoU at least 0.5: `wrong class`.
    3. Same class, IoU at least 0.1: `badly placed`. Not for a second box on an object of its class.

    What is left is `missed` and `false`.

    Args:
        scores, labels, boxes: of the detections, best first; `[n]`, `[n]`, `[n, 4]` xywh px.
        reference: `{labels [m], boxes [m, 4] xyxy px, iscrowd [m]}`.
    """
    true_labels, true_boxes = np.asarray(reference["labels"], dtype="i8"), to_xywh(reference["boxes"])
    crowd = np.asarray(reference["iscrowd"], dtype=bool)
    ious = measure_overlaps(boxes, true_boxes, crowd)
    matches = ImageMatches(
        scores=scores,
        labels=labels,
        boxes=_to_xyxy(boxes),
        verdicts=np.full(len(boxes), "false", dtype="U12"),
        partners=np.full(len(boxes), -1),
        true_labels=true_labels,
        true_boxes=_to_xyxy(true_boxes),
        true_verdicts=np.where(crowd, "crowd", "missed").astype("U12"),
    )
    same_class, overlapping = matches.labels[:, None] == true_labels, ious >= MATCHING_IOU
    _pair("right", overlapping & same_class, ious, matches)
    in_a_crowd = (overlapping & same_class & crowd).any(1)  # which has room for any number
    matches.verdicts[in_a_crowd & (matches.verdicts == "false")] = "crowd"
    _pair("wrong class", overlapping & ~same_class, ious, matches)
    on_an_object = (overlapping & same_class).any(1)
    _pair("badly placed", (ious >= NEAR_IOU) & same_class & ~on_an_object[:, None], ious, matches)
    return matches


def measure_overlaps(boxes: np.ndarray, true_boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """
    Return the IoU `[n, m]` of detections with objects, with a crowd the share of the detection that is in it.

    Args:
        boxes, true_boxes: xywh in pixels, float64 `[n, 4]` and `[m, 4]`.
        crowd: bool `[m]`.
    """
    if not len(boxes) or not len(true_boxes):
        return np.zeros((len(boxes), len(true_boxes)))
    return np.asarray(box_iou(np.ascontiguousarray(boxes), true_boxes, crowd.tolist()))


def find_errors(detections: list[dict], references: list[dict], num_classes: int) -> Errors:
    """
    Look through a data set, an image at a time.

    Args:
        detections: per image `{image_id, scores [n], labels [n], boxes [n, 4] xyxy px}`; arrays or lists.
        references: per image `{image_id, labels, boxes [m, 4] xyxy px, iscrowd}`.
    """
    found = {entry["image_id"]: entry for entry in detections}
    scores, right, num_objects = [np.empty(0)], [np.empty(0, dtype=bool)], 0
    for reference in references:
        matches = match_image(found.get(reference["image_id"]), reference)
        counted = matches.verdicts != "crowd"
        scores.append(matches.scores[counted])
        right.append(matches.verdicts[counted] == "right")
        num_objects += np.count_nonzero(matches.true_verdicts != "crowd")
    scores, right = np.concatenate(scores), np.concatenate(right)
    threshold = _best_threshold(scores, right, num_objects)

    confusion = np.zeros((num_classes + 1, num_classes + 1), dtype=int)
    counts = np.zeros((len(references), len(ERRORS)), dtype=int)
    for image, reference in enumerate(references):
        matches = match_image(found.get(reference["image_id"]), reference, np.inf if threshold is None else threshold)
        counts[image] = matches.count_errors()
        paired = np.isin(matches.verdicts, ("right", "wrong class"))
        alone = np.isin(matches.verdicts, ("false", "badly placed"))
        not_found = np.isin(matches.true_verdicts, ("missed", "badly placed"))
        np.add.at(confusion, (matches.true_labels[matches.partners[paired]], matches.labels[paired]), 1)
        np.add.at(confusion[num_classes], matches.labels[alone], 1)
        np.add.at(confusion[:, num_classes], matches.true_labels[not_found], 1)
    num_right, num_counted = confusion.trace(), confusion[:, :-1].sum()
    return Errors(
        threshold=threshold,
        precision=float(num_right / num_counted) if num_counted else None,
        recall=float(num_right / num_objects) if num_objects else None,
        confusion=confusion,
        calibration=_calibrate(scores, right),
        counts=counts,
    )


def _pair(verdict: str, candidates: np.ndarray, ious: np.ndarray, matches: ImageMatches) -> None:
    """Pair the candidates `[n, m]` that are left, detections in the order of scores."""
    for index in np.flatnonzero(candidates.any(1) & (matches.verdicts == "false")):
        free = np.flatnonzero(candidates[index] & (matches.true_verdicts == "missed"))
        if len(free):
            best = free[::-1][ious[index, free[::-1]].argmax()]  # of equals the last, as pycocotools
            matches.verdicts[index] = matches.true_verdicts[best] = verdict
            matches.partners[index] = best


def to_xywh(boxes: ArrayLike) -> np.ndarray:
    """Return boxes `[n, 4]`, x1 y1 x2 y2, as x y width height, float64."""
    boxes = np.array(boxes, dtype="f8").reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _to_xyxy(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _best_threshold(scores: np.ndarray, right: np.ndarray, num_objects: int) -> float | None:
    if not len(scores):
        return None
    order = np.argsort(-scores, kind="stable")
    scores, num_right = scores[order], np.cumsum(right[order])
    if not num_right[-1]:
        return float(scores[min(max(num_objects, 1), len(scores)) - 1])
    f1 = 2 * num_right / (np.arange(1, len(scores) + 1) + num_objects)
    f1[:-1][scores[1:] == scores[:-1]] = -1  # equal scores are in or out together
    return float(scores[f1.argmax()])


def _calibrate(scores: np.ndarray, right: np.ndarray) -> list[dict] | None:
    if ((scores < 0) | (scores > 1)).any():
        return None
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    rows = []
    for number in range(_BINS):
        here = bins == number
        count = int(np.count_nonzero(here))
        rows.append(
            {
                "from": number / _BINS,
                "to": (number + 1) / _BINS,
                "detections": count,
                "right": int(np.count_nonzero(right[here])),
                "share_right": float(right[here].mean()) if count else None,
                "mean_score": float(scores[here].mean()) if count else None,
            }
        )
    return rows
