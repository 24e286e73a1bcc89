"""Whether an exported graph gives the detector's numbers, on real images of several sizes and batches."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ..image_processing_dino_detr import select_detections

LOGITS, SHARE = 1e-2, 0.95  # how far a query's logits may be off, and of how many queries they must be within that
SCORE, IOU = 5e-3, 0.98  # how far a detection may be off
_COMPARED = 50  # detections of an image, the best; among twice as many of the other's, for scores may tie

Batch = dict[str, Tensor]


class ExportFailed(ValueError):
    """An export whose numbers are not those of the detector."""


@dataclass
class Verification:
    """
    How an exported graph compares with the detector.

    Args:
        images: that were compared.
        sizes: heights and widths of the batches.
        logits, boxes: largest differences, of logits and of cxcywh boxes in 0..1.
        queries: the share of queries whose logits are within `LOGITS`. Where two tokens of the encoder tie, their
            queries change places, and nothing else.
        detections: the share of the best detections that the graph finds too, with the class, a score within `SCORE`
            and an IoU of `IOU`.
    """

    images: int
    sizes: list[list[int]]
    logits: float
    boxes: float
    queries: float
    detections: float

    @property
    def is_good(self) -> bool:
        return self.queries >= SHARE and self.detections >= SHARE

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.images} images in {len(self.sizes)} batches: {self.detections:.1%} of the best detections and "
            f"{self.queries:.1%} of the queries agree; largest difference of a logit {self.logits:.1e}, of a box "
            f"{self.boxes:.1e}"
        )


def verify(graph: Callable, exported: Callable, batches: Iterable[Batch]) -> Verification:
    """
    Compare an exported graph with what it was made from.

    Args:
        graph, exported: from a batch to a mapping of outputs, as `DetectorGraph.forward` returns it.
        batches: what both are called with.
    """
    images, sizes, logits, boxes, near, found = 0, [], [0.0], [0.0], [], []
    for batch in batches:
        with torch.no_grad():
            ours = graph(**batch)
        theirs = exported(**batch)
        if "logits" in ours:
            difference = (ours["logits"] - theirs["logits"]).abs()
            logits.append(difference.max().item())
            boxes.append((ours["pred_boxes"] - theirs["pred_boxes"]).abs().max().item())
            near.append((difference.amax(2) < LOGITS).float().flatten())
        count = len(batch["pixel_values"])
        found += [_share_found(ours, theirs, index) for index in range(count)]
        images, sizes = images + count, [*sizes, list(batch["pixel_values"].shape[-2:])]
    share = torch.cat(near).mean().item() if near else 1.0
    return Verification(images, sizes, max(logits), max(boxes), share, sum(found) / len(found))


def _share_found(ours: Batch, theirs: Batch, index: int) -> float:
    """Return the share of an image's best detections that are among the other's."""
    scores, labels, boxes = _best(ours, index, _COMPARED)
    other_scores, other_labels, other_boxes = _best(theirs, index, 2 * _COMPARED)
    same = box_iou(boxes, other_boxes) >= IOU
    same |= (boxes[:, None] == other_boxes).all(2)  # of no area
    same &= labels[:, None] == other_labels
    same &= (scores[:, None] - other_scores).abs() <= SCORE
    return same.any(1).float().mean().item()


def _best(outputs: Batch, index: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    if "scores" in outputs:
        return tuple(outputs[name][index, :count] for name in ("scores", "labels", "boxes"))  # pyright: ignore
    logits, boxes = outputs["logits"][index : index + 1], outputs["pred_boxes"][index : index + 1]
    scores, labels, boxes = select_detections(logits, boxes, None, count)
    return scores[0], labels[0], boxes[0]


def find_worst_stage(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[str, float]:
    """
    Return the first part of the detector whose output is off, and by how much of its largest value.

    Args:
        ours, theirs: outputs by the names of the parts, in the order in which they run.
    """
    errors = {}
    for name, expected in ours.items():
        scale = expected.abs().max().clamp(min=1e-6)
        errors[name] = ((theirs[name] - expected).abs().max() / scale).nan_to_num(float("inf")).item()
    worst = max(errors.values())
    # what follows a fault is off as well
    return next((name, error) for name, error in errors.items() if error >= min(0.1 * worst, 1e-2) or error == worst)
