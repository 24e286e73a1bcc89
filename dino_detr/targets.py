"""The true boxes of a batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Targets:
    """
    The boxes of a batch, one image after the other.

    Args:
        labels: int64 `[T]`, class indices.
        boxes: float32 `[T, 4]`, cxcywh in 0..1.
        image: int64 `[T]`, which image of the batch.
        counts: boxes of each image.
    """

    labels: Tensor
    boxes: Tensor
    image: Tensor
    counts: list[int]

    @classmethod
    def from_labels(cls, labels: list[dict], batch_size: int, device: torch.device) -> "Targets":
        """
        Build targets from the processor's `labels`, of which `class_labels` and `boxes` are read.

        Raises:
            ValueError: for a wrong number of images, a missing field or mismatched shapes. Values are checked where
            they next reach the CPU (`assign`), so that nothing waits for the device here.
        """
        if len(labels) != batch_size:
            raise ValueError(f"labels describes {len(labels)} images, pixel_values has {batch_size}")
        for index, label in enumerate(labels):
            for field in ("class_labels", "boxes"):
                if field not in label:
                    raise ValueError(f"labels[{index}] has no {field!r}")
            if label["boxes"].shape != (len(label["class_labels"]), 4):
                raise ValueError(
                    f"labels[{index}]: boxes must be [{len(label['class_labels'])}, 4] as class_labels has "
                    f"{len(label['class_labels'])} entries, not {list(label['boxes'].shape)}"
                )
        counts = [len(label["class_labels"]) for label in labels]
        return cls(
            labels=torch.cat([label["class_labels"] for label in labels]).to(device, torch.int64),
            boxes=torch.cat([label["boxes"] for label in labels]).to(device, torch.float32),
            image=torch.arange(batch_size).repeat_interleave(torch.tensor(counts)).to(device, non_blocking=True),
            counts=counts,
        )

    def offsets(self) -> Tensor:
        """Return where each image's boxes start, int64 `[B]`."""
        starts = torch.tensor([0, *self.counts[:-1]]).cumsum(0)
        return starts.to(self.labels.device, non_blocking=True)

    def padded(self, max_boxes: int) -> tuple[Tensor, Tensor]:
        """Return labels `[B, max_boxes]` and boxes `[B, max_boxes, 4]`, -1 and zeros where an image has fewer."""
        slot = torch.arange(len(self.labels), device=self.labels.device) - self.offsets()[self.image]
        labels = self.labels.new_full((len(self.counts), max_boxes), -1)
        boxes = self.boxes.new_zeros((len(self.counts), max_boxes, 4))
        labels[self.image, slot] = self.labels
        boxes[self.image, slot] = self.boxes
        return labels, boxes


def check_values(labels: np.ndarray, boxes: np.ndarray, counts: list[int], num_labels: int) -> None:
    """Name the first image of the batch whose labels cannot be learned from."""
    image = np.repeat(np.arange(len(counts)), counts)
    bad = (labels < 0) | (labels >= num_labels)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(
            f"labels[{image[at]}]: class_labels holds {int(labels[at])}, but the model has {num_labels} classes "
            f"(0..{num_labels - 1}); map category ids to class indices"
        )
    # a hair of slack: boxes that touch the border may be off by rounding
    bad = ~((boxes >= -1e-4) & (boxes <= 1 + 1e-4)).all(1)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(
            f"labels[{image[at]}]: boxes holds {boxes[at].round(4).tolist()}, but boxes are (cx, cy, w, h) in 0..1 "
            "of the image; divide pixels by its width and height"
        )
