"""The assignment of queries to targets, for all layers and images at once, exactly, on the CPU."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .boxes import cxcywh_to_xyxy, generalized_iou
from .configuration_dino_detr import DinoDetrConfig
from .targets import Targets, check_values

try:
    from scipy.optimize import linear_sum_assignment
except ImportError:  # needed for losses only
    linear_sum_assignment = None


class NonFinitePredictions(ValueError):
    """
    Predictions that cannot be matched to labels.

    Args:
        finite_logits, finite_boxes: whether those of each of the `L` layers are finite.
    """

    def __init__(self, finite_logits: list[bool], finite_boxes: list[bool]):
        super().__init__("the predictions (logits or boxes) are not finite, so they cannot be matched to labels")
        self.finite_logits, self.finite_boxes = finite_logits, finite_boxes


@dataclass
class Assignment:
    """
    The query of an image that predicts a target, in each of `L` layers. `M` = sum of min(boxes, queries).

    Args:
        image: int64 `[M]`.
        query: int64 `[L, M]`.
        target: int64 `[L, M]`, index into `Targets`.
    """

    image: Tensor
    query: Tensor
    target: Tensor


def matching_cost(logits: Tensor, boxes: Tensor, targets: Targets, config: DinoDetrConfig) -> Tensor:
    """
    Return the focal class cost + L1 + generalized IoU (Deformable DETR, appendix A.4; weights of the configuration).

    Args:
        logits: float32 `[L, B, Q, K]`.
        boxes: float32 `[L, B, Q, 4]`, cxcywh.

    Returns:
        float32 `[T, L, Q]`: what it costs to let a query predict a target of its own image.
    """
    # The class cost: the focal loss of having the target's class less that of not having it.
    alpha, gamma, eps = config.focal_alpha, config.focal_gamma, 1e-8
    labels = targets.labels.clamp(0, logits.shape[-1] - 1)  # bad ones are reported by `assign`
    probability = logits.permute(1, 3, 0, 2)[targets.image, labels].sigmoid()  # [B, K, L, Q] -> [T, L, Q]
    positive = alpha * (1 - probability) ** gamma * -(probability + eps).log()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + eps).log()
    class_cost = positive - negative

    # The L1 cost of boxes.
    predicted = boxes.transpose(0, 1)[targets.image]  # [B, L, Q, 4] -> [T, L, Q, 4]
    true = targets.boxes[:, None, None]
    bbox_cost = (predicted - true).abs().sum(-1)

    # The cost of generalized IoU.
    giou_cost = -generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true))

    return config.class_cost * class_cost + config.bbox_cost * bbox_cost + config.giou_cost * giou_cost


@torch.no_grad()
def assign(logits: Tensor, boxes: Tensor, targets: Targets, config: DinoDetrConfig) -> Assignment:
    """
    Find the cheapest one-to-one assignment of every layer and image.

    The costs of all of them reach the CPU in one transfer, with what is needed to check the labels' values.

    Args:
        logits: float32 `[L, B, Q, K]`.
        boxes: float32 `[L, B, Q, 4]`, cxcywh.

    Raises:
        ValueError: for class labels outside 0..K-1 or boxes outside 0..1.
        NonFinitePredictions: a ValueError too, if logits or boxes are not finite.
    """
    if linear_sum_assignment is None:
        raise ImportError("matching predictions to labels needs scipy: pip install scipy")
    num_layers, _, num_queries, num_labels = logits.shape
    cost = matching_cost(logits, boxes, targets, config)
    transferred = torch.cat([cost.flatten(), targets.labels.float(), targets.boxes.flatten()]).cpu().numpy()
    cost, true_labels, true_boxes = np.split(transferred, [cost.numel(), cost.numel() + len(targets.labels)])
    check_values(true_labels, true_boxes.reshape(-1, 4), targets.counts, num_labels)
    if not np.isfinite(cost).all():
        raise NonFinitePredictions(*(x.isfinite().flatten(1).all(1).tolist() for x in (logits, boxes)))

    cost = cost.reshape(len(true_labels), num_layers, num_queries)
    image, query, target, start = [], [[] for _ in range(num_layers)], [[] for _ in range(num_layers)], 0
    for index, count in enumerate(targets.counts):
        image += [index] * min(count, num_queries)
        for layer in range(num_layers):
            rows, columns = linear_sum_assignment(cost[start : start + count, layer])
            target[layer].append(rows + start)
            query[layer].append(columns)
        start += count
    indices = np.stack([[np.concatenate(layer) for layer in query], [np.concatenate(layer) for layer in target]])
    query, target = torch.from_numpy(indices.astype(np.int64)).to(logits.device, non_blocking=True)
    return Assignment(torch.tensor(image, dtype=torch.int64).to(logits.device, non_blocking=True), query, target)
