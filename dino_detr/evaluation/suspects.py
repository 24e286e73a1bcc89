"""Labels of an image that a detector contradicts, each with a score of suspicion."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import nms

from .errors import MATCHING_IOU, match_detections, measure_overlaps, to_xywh

FITTING_IOU = 0.7  # from which a box is well placed

# What each kind is, and how it is scored: 0 to 1.
KINDS = {
    "missing box": "a confident detection where no box is; its score",
    "spurious box": "a box without a confident detection; 1 less the best score on it as a share of the threshold",
    "wrong class": "a box on which another class is detected; its score, less that of the annotated class",
    "badly placed box": "a box whose detection overlaps it by an IoU below 0.7; its score times 1 less the IoU",
}


class Suspect(NamedTuple):
    """
    A label that may be wrong.

    Args:
        kind: of `KINDS`.
        score: of suspicion, 0..1.
        box: index among the annotated boxes; None of a missing one.
        detection: index among the confident detections of that which contradicts it; None of a spurious box.
    """

    kind: str
    score: float
    box: int | None
    detection: int | None


def find_suspects(
    detection: dict, reference: dict, threshold: float, known_labels: Collection[int]
) -> tuple[list[Suspect], np.ndarray]:
    """
    Find the labels of an image that its detections contradict.

    Confident detections are matched with the boxes by `match_detections`; no label is suspected twice. Crowds and boxes
    of classes that the detector does not know are not suspected, and a detection on them is no missing box.

    Args:
        detection: `{scores [n], labels [n], boxes [n, 4] xyxy px}` of every score and class, best first, in the labels
            of the data; -1 is a class that the data do not have.
        reference: `{labels [m], boxes [m, 4] xyxy px, iscrowd [m]}`.
        threshold: confident detections have a score above it.
        known_labels: those that the detector can give.

    Returns:
        The suspects, in no order, and the indices of the confident detections, best first.
    """
    scores, labels = (np.asarray(detection[name]) for name in ("scores", "labels"))
    boxes = to_xywh(detection["boxes"])
    _, first, query = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
    query = query.reshape(-1)  # a box has scores of several classes, of which the best is its label
    confident = np.sort(first[scores[first] > threshold])
    matches = match_detections(scores[confident], labels[confident], boxes[confident], reference)
    crowd = np.asarray(reference["iscrowd"], dtype=bool)
    ious = measure_overlaps(boxes, to_xywh(reference["boxes"]), crowd)

    suspects = []
    right = matches.verdicts == "right"
    owners = np.full(len(first), -1)  # box that a query agrees with: it says nothing of another
    owners[query[confident[right]]] = matches.partners[right]
    partners = {box: index for index, box in enumerate(matches.partners.tolist())}
    for box, (verdict, label) in enumerate(zip(matches.true_verdicts, matches.true_labels)):
        if verdict == "crowd" or label not in known_labels:
            continue
        about = (ious[:, box] >= MATCHING_IOU) & np.isin(owners[query], (-1, box))
        if verdict == "missed":
            doubt = 1 - _best(scores[about]) / threshold if threshold else 0
            if doubt > 0:
                suspects.append(Suspect("spurious box", doubt, box, None))
            continue
        partner = partners[box]
        score, iou = float(matches.scores[partner]), float(ious[confident[partner], box])
        if verdict == "wrong class":
            doubt = score - _best(scores[about & (labels == label)])
            if doubt > 0 and matches.labels[partner] in known_labels:
                suspects.append(Suspect("wrong class", doubt, box, partner))
        elif iou < FITTING_IOU:
            suspects.append(Suspect("badly placed box", score * (1 - iou), box, partner))
    on_a_box = np.any(ious[confident] >= MATCHING_IOU, axis=1)
    for index in _find_alone(matches.boxes, matches.scores):
        if matches.verdicts[index] == "false" and not on_a_box[index] and matches.labels[index] in known_labels:
            suspects.append(Suspect("missing box", float(matches.scores[index]), None, index))
    return suspects, confident


def _best(scores: np.ndarray) -> float:
    return float(scores.max(initial=0))


def _find_alone(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Return the indices of detections that no better one overlaps: a second box on an object is no other object."""
    return nms(torch.from_numpy(boxes), torch.from_numpy(scores.astype("f8")), MATCHING_IOU).tolist()
