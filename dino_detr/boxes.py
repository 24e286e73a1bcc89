"""Box arithmetic, in float32 whatever the autocast, because half precision moves boxes by pixels."""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn (centre x, centre y, width, height) into (left, top, right, bottom), `[..., 4]`."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Turn (left, top, right, bottom) into (centre x, centre y, width, height), `[..., 4]`."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Return the logit of `x`. Its distance from 0 and 1 counts as at least `eps`, the reference's."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of xyxy boxes, broadcast over the leading dimensions; 0..1. The union gets 1e-6 added."""
    overlap, union = _overlap_and_union(a, b)
    return overlap / (union + 1e-6)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """
    Generalized IoU (arXiv 1902.09630) of xyxy boxes, broadcast over the leading dimensions; -1..1.

    Union and enclosing area get 1e-6 added, as in the reference.
    """
    overlap, union = _overlap_and_union(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return overlap / (union + 1e-6) - (hull - union) / (hull + 1e-6)


def _overlap_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    return overlap, area_a + area_b - overlap
