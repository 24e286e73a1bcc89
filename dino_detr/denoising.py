"""Contrastive denoising queries: true boxes with noise, to be restored or rejected (DINO, section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from .configuration_dino_detr import DinoDetrConfig
from .targets import Targets


@dataclass
class DenoisingQueries:
    """
    The noise of one step. Passing one to `forward` replays it.

    Slots are `2 * num_groups` half-groups of as many boxes as `P` allows: positive, negative, positive, ...

    Args:
        labels: int64 `[B, P]`, the noised class of each slot, -1 where the slot is empty.
        boxes: float32 `[B, P, 4]` cxcywh in 0..1, the noised box of each slot; its size may be negative, where
            noise made the corners cross.
        num_groups: pairs of half-groups.
        box_index: int64 `[B, P / (2 * num_groups)]`, which of an image's boxes a half-group's slots hold. None: the
            first ones in order, which is right unless an image has more boxes than fit.
    """

    labels: Tensor
    boxes: Tensor
    num_groups: int
    box_index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.num_groups < 1 or self.labels.shape[1] % (2 * self.num_groups):
            raise ValueError(
                f"denoising_queries: {self.labels.shape[1]} slots are not 2 * num_groups={self.num_groups} half-groups"
            )
        if self.boxes.shape != (*self.labels.shape, 4):
            raise ValueError(
                f"denoising_queries: boxes must be {[*self.labels.shape, 4]} beside labels "
                f"{list(self.labels.shape)}, not {list(self.boxes.shape)}"
            )

    def to(self, device: torch.device) -> "DenoisingQueries":
        """Return the same noise on a device."""
        box_index = None if self.box_index is None else self.box_index.to(device)
        return DenoisingQueries(self.labels.to(device), self.boxes.to(device), self.num_groups, box_index)

    @property
    def half_group(self) -> int:
        """Slots in a half-group."""
        return self.labels.shape[1] // (2 * self.num_groups)

    def attention_mask(self, num_queries: int) -> Tensor:
        """
        Who may attend to whom among `P` denoising and `num_queries` matching queries: bool `[P+Q, P+Q]`, True where
        row may see column. Groups see themselves and the matching queries; those see only one another.
        """
        slots = self.labels.shape[1]
        group = torch.arange(slots + num_queries, device=self.labels.device) // (2 * self.half_group)
        group[slots:] = -1
        return (group[:, None] == group[None, :]) | (group[None, :] == -1)


def draw_denoising_queries(
    targets: Targets,
    config: DinoDetrConfig,
    max_boxes: int | None = None,
    seeds: list[int] | None = None,
) -> DenoisingQueries | None:
    """
    Draw the noise for a batch.

    The number of queries stays within 2 * `num_denoising`. If an image has more than `num_denoising` boxes, a random
    subset of them is denoised.

    Args:
        max_boxes: the most boxes of one image, at least this batch's; the number of groups follows from it. None:
            this batch's. Micro-batches that make up one step share the step's, and so what their groups look like.
        seeds: one for each image, from which its noise is drawn, whichever batch it is in. None: all is drawn at once
            from torch's global generator.

    Returns:
        None where there is nothing to noise.
    """
    if max_boxes is None:
        max_boxes = max(targets.counts, default=0)
    num_labels: int = config.num_labels  # pyright: ignore[reportAssignmentType] never None in a whole configuration
    num_denoising = config.num_denoising
    if max_boxes == 0 or num_denoising == 0:
        return None
    labels, boxes = targets.padded(max_boxes)  # [B, max_boxes], [B, max_boxes, 4]
    generators = None if seeds is None else [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(shape: torch.Size) -> Tensor:
        if generators is None:
            return torch.rand(shape, device=labels.device)
        numbers = torch.stack([torch.rand(shape[1:], generator=generator) for generator in generators])
        return numbers.to(labels.device, non_blocking=True)

    num_groups = max(1, num_denoising // max_boxes)
    box_index = None
    if max_boxes > num_denoising:
        order = uniform(labels.shape).masked_fill(labels < 0, 2.0)  # empty slots come last
        box_index = order.argsort(1)[:, :num_denoising]
        labels, boxes = labels.gather(1, box_index), boxes.gather(1, box_index[..., None].expand(-1, -1, 4))

    labels = labels[:, None, None].expand(-1, num_groups, 2, -1)  # [B, groups, positive and negative, half_group]
    boxes = boxes[:, None, None].expand(-1, num_groups, 2, -1, -1)
    redrawn = (uniform(labels.shape) < config.label_noise_ratio * 0.5) & (labels >= 0)
    labels = torch.where(redrawn, (uniform(labels.shape) * num_labels).long().clamp(max=num_labels - 1), labels)
    sign = (uniform(boxes.shape) < 0.5) * 2 - 1
    magnitude = uniform(boxes.shape)
    magnitude[:, :, 1] += 1
    boxes = noise_boxes(boxes, sign * magnitude * config.box_noise_scale)
    return DenoisingQueries(labels.flatten(1), boxes.flatten(1, 3), num_groups, box_index)


def noise_boxes(boxes: Tensor, noise: Tensor) -> Tensor:
    """
    Move the corners of `boxes` (cxcywh) by `noise` (left, top, right, bottom; in half box sizes), within 0..1.

    Corners may cross, and then the size is negative, as in the reference.
    """
    half_sizes = boxes[..., 2:] / 2
    corners = cxcywh_to_xyxy(boxes) + noise * torch.cat([half_sizes, half_sizes], dim=-1)
    return xyxy_to_cxcywh(corners.clamp(0, 1))
