"""Why AP is 0: what the detections look like beside the truth, and what that suggests."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from .coco.metric import CocoDetectionMetric
from .coco.table import format_figure

UNEXPLAINED_AP50 = 0.01  # below it, there is something to explain

_MOST_IMAGES = 500  # looked at: enough to see why
_MOST_SHOWN = 8  # classes of a histogram, and ids
_LOW_SCORE = 0.2
_QUANTILES = (0, 0.5, 0.9, 0.99, 1)


@dataclass
class LearningRate:
    """
    The progress of a run's learning rate.

    Args:
        step, warmup_steps: steps made, and those over which the rate rises.
        highest: that was logged; None if there is no line of the log.
        full: after warm-up.
    """

    step: int
    warmup_steps: int
    highest: float | None
    full: float

    def explain(self) -> str | None:
        """Return a sentence if the rate was too low so far to learn at."""
        if self.full == 0:
            return "The learning rate is 0: nothing is learned."
        if self.step < self.warmup_steps:
            reached = (
                "" if self.highest is None else f", and the learning rate at {self.highest:.2g} of {self.full:.2g}"
            )
            return (
                f"The run is still in warm-up, at step {self.step} of {self.warmup_steps}{reached}: train longer, or "
                "with fewer warmup_steps."
            )
        if self.step < 2 * self.warmup_steps:
            return (
                f"Warm-up ended {self.step - self.warmup_steps} steps ago, after {self.warmup_steps}, and little is "
                "learned in it: train longer, or with fewer warmup_steps."
            )
        return None


@dataclass
class Diagnosis:
    """
    The findings of `diagnose`. `None`, or -1 for the precisions, where there was nothing to compute it from.

    Args:
        images, objects, detections: how many were looked at; crowds and objects without extent are not counted.
        agnostic_ap, agnostic_ap50: average precision with all labels made one.
        scores: their least, median, 90 % and 99 % quantile, and greatest.
        true_labels, predicted_labels: objects of each class by name, most frequent first; and the best detections'
            labels, as many in each image as it has objects.
        unseen: names of the classes of objects that training had none of.
        repeated_ids: annotation ids that occur more than once, ascending.
        size_ratio: square root of the area, of these best detections relative to the objects: the median of each
            image's ratio of medians.
        best_iou: of each object, with whichever detection of its image overlaps it most: the median.
        loss: the training loss in its first line of the log and in its last; one number if there is but one line.
        rate: how far the learning rate had come.
        finding: what this suggests, in a sentence or two.
    """

    images: int
    objects: int
    detections: int
    agnostic_ap: float
    agnostic_ap50: float
    scores: list[float] | None
    true_labels: dict[str, int]
    predicted_labels: dict[str, int]
    unseen: list[str]
    repeated_ids: list[int]
    size_ratio: float | None
    best_iou: float | None
    loss: tuple[float, ...] | None
    rate: LearningRate | None = None
    finding: str = ""

    def __str__(self) -> str:
        scores = "none"
        if self.scores is not None:
            scores = "least {:.3f}, median {:.3f}, 90 % below {:.3f}, 99 % below {:.3f}, greatest {:.3f}".format(
                *self.scores
            )
        lines = [
            ("looked at", f"{self.images} images, {self.objects} objects, {self.detections} detections"),
            ("all labels made one", f"AP {format_figure(self.agnostic_ap)}, AP50 {format_figure(self.agnostic_ap50)}"),
            ("scores", scores),
            ("true labels", _shorten([f"{name}: {count}" for name, count in self.true_labels.items()])),
            ("predicted labels", _shorten([f"{name}: {count}" for name, count in self.predicted_labels.items()])),
            ("size of boxes", f"{format_figure(self.size_ratio)} times the true ones' (median)"),
            ("best overlap", f"IoU {format_figure(self.best_iou)} of an object with any box (median)"),
            ("repeated ids", _shorten([str(number) for number in self.repeated_ids])),
        ]
        if self.loss:
            text = "{:.4g} in its first line of the log, {:.4g} in its last"
            text = text if len(self.loss) == 2 else "{:.4g} in the only line of the log"
            lines.append(("training loss", text.format(*self.loss)))
        return "\n".join([*(f"  {name:<20} {value}" for name, value in lines), self.finding])


def diagnose(
    detections: list[dict],
    references: list[dict],
    annotation_ids: list[int],
    class_names: list[str],
    trained_labels: set[int] | None = None,
    loss: tuple[float, ...] | None = None,
    rate: LearningRate | None = None,
) -> Diagnosis:
    """
    Look for the reason of an AP of about 0. At most 500 images, spread over the data set, are looked at.

    Args:
        detections: per image `{image_id, scores [n], labels [n], boxes [n, 4] xyxy px}`, best first; numpy arrays.
        references: per image `{image_id, labels, boxes [m, 4] xyxy px, area, iscrowd}` (`detections.references`).
        annotation_ids: of all objects of the data set.
        class_names: the name of every class index.
        trained_labels: the class indices of which training has objects, if known.
        loss: the training loss at first and now, if known; one number if they are the same line of the log.
        rate: how far the learning rate had come, if known.
    """
    references = references[:: -(-len(references) // _MOST_IMAGES) or 1]
    found = {entry["image_id"]: entry for entry in detections}
    pairs = [(_unlabelled_once(found.get(entry["image_id"])), entry) for entry in references]
    agnostic = _agnostic_figures(pairs)

    labels, predicted, ratios, overlaps, scores = Counter(), Counter(), [], [], []
    for detection, entry in pairs:
        scores.append(detection["scores"])
        boxes = np.asarray(entry["boxes"], dtype=np.float64).reshape(-1, 4)
        counted = ((boxes[:, 2:] > boxes[:, :2]).all(1)) & (np.asarray(entry["iscrowd"]) == 0)
        boxes = boxes[counted]
        labels.update(np.asarray(entry["labels"])[counted].tolist())
        predicted.update(detection["labels"][: len(boxes)].tolist())
        if len(boxes) and len(detection["boxes"]):
            ratios.append(np.median(_sides(detection["boxes"][: len(boxes)])) / np.median(_sides(boxes)))
            ious = box_iou(torch.from_numpy(boxes), torch.from_numpy(detection["boxes"].astype(np.float64)))
            overlaps += ious.amax(1).tolist()
    scores = np.concatenate(scores) if scores else np.empty(0)
    ids, counts = np.unique(np.asarray(annotation_ids, dtype=np.int64), return_counts=True)
    diagnosis = Diagnosis(
        images=len(references),
        objects=labels.total(),
        detections=sum(len(found[entry["image_id"]]["scores"]) for entry in references if entry["image_id"] in found),
        agnostic_ap=agnostic["AP"],
        agnostic_ap50=agnostic["AP50"],
        scores=np.quantile(scores, _QUANTILES).tolist() if len(scores) else None,
        true_labels={class_names[label]: count for label, count in labels.most_common()},
        predicted_labels={class_names[label]: count for label, count in predicted.most_common()},
        unseen=[]
        if trained_labels is None
        else [class_names[label] for label in sorted(labels.keys() - trained_labels)],
        repeated_ids=ids[counts > 1].tolist(),
        size_ratio=float(np.median(ratios)) if ratios else None,
        best_iou=float(np.median(overlaps)) if overlaps else None,
        loss=loss,
        rate=rate,
    )
    diagnosis.finding = " ".join(_findings(diagnosis))
    return diagnosis


def _findings(seen: Diagnosis) -> list[str]:
    """Say the likeliest reason first, and what is wrong besides after it."""
    findings = [_reason(seen)]
    unseen = sum(seen.true_labels[name] for name in seen.unseen)
    if unseen and unseen <= seen.objects / 2:
        findings.append(f"Training has no object of {_shorten(seen.unseen)}.")
    if seen.repeated_ids:
        findings.append(
            "Annotation ids occur more than once: this evaluation does not mind, but pycocotools takes the last "
            "annotation of an id for all of them and drops the others; give each its own id."
        )
    return findings


def _reason(seen: Diagnosis) -> str:
    if not seen.objects:
        return (
            "There is nothing to find: the evaluation split has no box with an extent that is not a crowd's. Is it the "
            "right split, and has its file annotations?"
        )
    if not seen.detections:
        return (
            "The model gave no detections: its boxes are empty or outside the images. Is the loss finite, is the "
            "learning rate too high?"
        )
    if sum(seen.true_labels[name] for name in seen.unseen) > seen.objects / 2:
        return (
            f"Most objects of the evaluation split are of classes that training has no object of "
            f"({_shorten(seen.unseen)}): do both annotation files give a class the same category id?"
        )
    if seen.agnostic_ap50 >= 0.3:
        return (
            "The boxes are right but their labels are not. Labels may come last in training; if it stays so, compare "
            "the two rows of labels: do the annotation files of training and evaluation, and the checkpoint, give a "
            "class the same category id?"
        )
    assert seen.scores is not None and seen.size_ratio is not None and seen.best_iou is not None  # there are both
    lowest, highest = seen.scores[0], seen.scores[-1]
    then = _advice(seen)
    if highest < _LOW_SCORE:
        return f"All scores are below {_LOW_SCORE}: it has not learned to tell objects from background yet. {then}"
    if highest - lowest < 0.01:
        return (
            f"All scores are alike, about {highest:.2f}: the class heads do not see the image. Is the learning rate "
            "too high, are the pretrained weights there?"
        )
    size_is_wrong = not 0.67 < seen.size_ratio < 1.5
    if seen.best_iou < 0.5:
        where = (
            f"of the wrong size, {seen.size_ratio:.2f} times the true ones'," if size_is_wrong else "in wrong places"
        )
        return (
            f"The boxes are {where} though scores reach {highest:.2f}. {then} If it stays so, look at formats: bbox is "
            "x, y, width, height in pixels of the image file, whose width and height the annotation file must have."
        )
    return (
        f"There are boxes on the objects, but others have the higher scores, up to {highest:.2f}: it does not tell "
        f"objects from background well yet. {then}"
    )


def _advice(seen: Diagnosis) -> str:
    """Advise on a detector that has not learned enough."""
    too_low = seen.rate.explain() if seen.rate is not None else None
    if too_low is not None:
        return too_low
    if seen.loss is not None and len(seen.loss) == 2 and seen.loss[1] > 0.95 * seen.loss[0]:
        return (
            "The training loss has not fallen either: try another learning rate, or learn a few images by heart first "
            "(--overfit_images 16)."
        )
    return "That is common early in training: train longer."


def _unlabelled_once(detection: dict | None) -> dict:
    """Leave out the copies of a box under further labels: the best score counts."""
    if detection is None:
        return {"scores": np.empty(0), "labels": np.empty(0, dtype=np.int64), "boxes": np.empty((0, 4))}
    _, first = np.unique(detection["boxes"], axis=0, return_index=True)  # best first
    first.sort()
    return {name: detection[name][first] for name in ("scores", "labels", "boxes")}


def _agnostic_figures(pairs: list[tuple[dict, dict]]) -> dict:
    if not pairs:
        return {"AP": -1.0, "AP50": -1.0}
    metric = CocoDetectionMetric(class_names=["object"])
    for detection, entry in pairs:
        metric.add(
            prediction={**detection, "labels": np.zeros(len(detection["labels"])), "image_id": entry["image_id"]},
            reference={**entry, "labels": np.zeros(len(entry["labels"]))},
        )
    return metric.compute()


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Return the sides of squares of the boxes' areas."""
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))


def _shorten(parts: list[str]) -> str:
    more = f" and {len(parts) - _MOST_SHOWN} more" if len(parts) > _MOST_SHOWN else ""
    return ", ".join(parts[:_MOST_SHOWN]) + more if parts else "none"
