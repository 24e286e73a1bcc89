"""Focal, L1 and generalized IoU losses of every layer, the encoder's head and the denoising queries, all at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .boxes import cxcywh_to_xyxy, generalized_iou, iou
from .configuration_dino_detr import DinoDetrConfig
from .denoising import DenoisingQueries
from .matching import Assignment, assign
from .targets import Targets

TERMS = ("loss_class", "loss_bbox", "loss_giou")


def detection_losses(
    logits: Tensor, boxes: Tensor, targets: Targets, matched: Assignment, config: DinoDetrConfig, num_boxes: Tensor
) -> dict[str, Tensor]:
    """
    Return the loss terms of `L` layers for an assignment, unweighted (Deformable DETR).

    Args:
        logits: float32 `[L, B, Q, K]`.
        boxes: float32 `[L, B, Q, 4]`, cxcywh.
        num_boxes: the normaliser.

    Returns:
        Each of `TERMS`, `[L]`.
    """
    layer = torch.arange(len(logits), device=logits.device)[:, None]
    predicted, true = boxes[layer, matched.image, matched.query], targets.boxes[matched.target]  # [L, M, 4]
    true_class = layer, matched.image, matched.query, targets.labels[matched.target]
    predicted_corners, true_corners = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true)
    if config.class_loss == "focal":
        of_classes = focal_loss(logits, true_class, config)
    else:
        of_classes = iou_aware_loss(logits, true_class, iou(predicted_corners, true_corners), config)
    if config.class_weights is not None:
        of_classes = of_classes * of_classes.new_tensor(config.class_weights)
    giou = generalized_iou(predicted_corners, true_corners)
    return {
        "loss_class": of_classes.sum((1, 2, 3)) / num_boxes,
        "loss_bbox": (predicted - true).abs().sum((1, 2)) / num_boxes,
        "loss_giou": (1 - giou).sum(1) / num_boxes,
    }


def focal_loss(logits: Tensor, true_class: tuple[Tensor, ...], config: DinoDetrConfig) -> Tensor:
    """Return the focal loss (arXiv 1708.02002) of each logit; `true_class` indexes those whose class is there."""
    expected = torch.zeros_like(logits)
    expected[true_class] = 1.0
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, expected, reduction="none")
    miss = probability * (1 - expected) + (1 - probability) * expected
    alpha = config.focal_alpha * expected + (1 - config.focal_alpha) * (1 - expected)
    return alpha * miss**config.focal_gamma * cross_entropy


def iou_aware_loss(logits: Tensor, true_class: tuple[Tensor, ...], iou: Tensor, config: DinoDetrConfig) -> Tensor:
    """
    Return Align-DETR's loss (arXiv 2304.07527) of each logit.

    The score of a class that is there is to be `score ** alpha * iou ** (1 - alpha)`, at least 0.01: scores come to say
    how well boxes fit. That of one which is not is weighed as in the focal loss.

    Args:
        iou: of the predicted boxes, in the order of `true_class`.
    """
    probability = logits.sigmoid()
    quality = probability[true_class].detach() ** config.focal_alpha * iou.detach() ** (1 - config.focal_alpha)
    expected = torch.zeros_like(logits)
    expected[true_class] = quality.clamp(min=0.01)
    present = torch.zeros_like(logits)
    present[true_class] = 1.0
    cross_entropy = F.binary_cross_entropy_with_logits(logits, expected, reduction="none")
    return (present + (1 - present) * probability**config.focal_gamma) * cross_entropy


def denoising_assignment(queries: DenoisingQueries, targets: Targets, num_layers: int) -> Assignment:
    """Assign positive slots to the boxes they were made from, in every layer. Nothing waits for the device."""
    fitting = torch.tensor([min(count, queries.half_group) for count in targets.counts])
    image = torch.arange(len(fitting)).repeat_interleave(fitting)
    box = torch.arange(len(image)) - (fitting.cumsum(0) - fitting).repeat_interleave(fitting)
    first_slots = torch.arange(queries.num_groups) * 2 * queries.half_group  # of the positive half-groups
    device = targets.boxes.device
    slot = (first_slots[:, None] + box).flatten().to(device, non_blocking=True)
    image, box = (x.repeat(queries.num_groups).to(device, non_blocking=True) for x in (image, box))
    target = targets.offsets()[image] + (box if queries.box_index is None else queries.box_index[image, box])
    return Assignment(image, slot.expand(num_layers, -1), target.expand(num_layers, -1))


def count_boxes(targets: Targets, denoising_queries: DenoisingQueries | None, across_processes: bool) -> Tensor:
    """
    Count the boxes of a batch, and those of them that are denoised: float32 `[2]`, at least 1.

    Across processes it is their mean, as gradients are averaged over processes too.
    """
    half_group = 0 if denoising_queries is None else denoising_queries.half_group
    counts = torch.tensor([[count, min(count, half_group)] for count in targets.counts], dtype=torch.float32).sum(0)
    counts = counts.to(targets.boxes.device, non_blocking=True)
    if across_processes and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
        counts = counts / torch.distributed.get_world_size()
    return counts.clamp(min=1)


def dino_loss(
    logits: Tensor,
    boxes: Tensor,
    denoising_logits: Tensor | None,
    denoising_boxes: Tensor | None,
    denoising_queries: DenoisingQueries | None,
    targets: Targets,
    config: DinoDetrConfig,
    normalisers: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """
    Return the training loss and its terms (DINO, section 4.1).

    Args:
        logits: float32 `[L+1, B, Q, K]`: the decoder layers in order, then the encoder's head.
        boxes: float32 `[L+1, B, Q, 4]`, cxcywh.
        denoising_logits, denoising_boxes: `[L, B, P, K]`, `[L, B, P, 4]`, with `denoising_queries`; or None.
        normalisers: float32 `[2]`, what the losses of matching and of denoising are divided by (see `count_boxes`).

    Returns:
        (the weighted sum, its terms unweighted: `loss_class`, `loss_bbox` and `loss_giou` of the last layer, with
        `_0`, `_1`, ... of the layers before, with `_enc` of the encoder, with `_dn`, `_dn_0`, ... of denoising).
    """
    num_boxes, num_denoised = normalisers.to(boxes.device, non_blocking=True)
    matched = assign(logits, boxes, targets, config)
    losses = detection_losses(logits, boxes, targets, matched, config, num_boxes)
    groups = [(losses, term_suffixes(len(logits)))]
    if denoising_queries is not None and denoising_logits is not None and denoising_boxes is not None:
        num_layers = len(denoising_logits)
        matched = denoising_assignment(denoising_queries, targets, num_layers)
        num_boxes = num_denoised * denoising_queries.num_groups
        losses = detection_losses(denoising_logits, denoising_boxes, targets, matched, config, num_boxes)
        groups.append((losses, denoising_suffixes(num_layers)))
    coefficients = (config.class_loss_coefficient, config.bbox_loss_coefficient, config.giou_loss_coefficient)
    total, terms = logits.new_zeros(()), {}
    for losses, suffixes in groups:
        for name, coefficient in zip(TERMS, coefficients):
            for suffix, term in zip(suffixes, losses[name]):
                terms[name + suffix] = term
                total = total + coefficient * term
    return total, terms


def term_suffixes(num_layers: int) -> list[str]:
    """Return the ends of the names of each layer's terms; the encoder's head is the last of the layers."""
    return [f"_{layer}" for layer in range(num_layers - 2)] + ["", "_enc"]


def denoising_suffixes(num_layers: int) -> list[str]:
    """Return the ends of the names of each decoder layer's denoising terms."""
    return [f"_dn_{layer}" for layer in range(num_layers - 1)] + ["_dn"]
