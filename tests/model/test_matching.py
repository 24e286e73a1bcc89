"""The matching cost is transformers', and the assignment the cheapest there is."""

from itertools import permutations

import pytest
import torch
from helpers.tiny import random_labels, tiny_config
from transformers.loss import loss_deformable_detr

from dino_detr.matching import NonFinitePredictions, assign, matching_cost
from dino_detr.targets import Targets

LAYERS, QUERIES, CLASSES = 2, 4, 3


def predictions(batch_size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(LAYERS, batch_size, QUERIES, CLASSES, generator=generator)
    boxes = torch.stack([random_labels(batch_size * QUERIES, seed=seed + layer)[0]["boxes"] for layer in range(LAYERS)])
    return logits, boxes.unflatten(1, (batch_size, QUERIES))


def targets_of(labels: list[dict]) -> Targets:
    return Targets.from_labels(labels, len(labels), torch.device("cpu"))


def test_the_cost_is_that_of_transformers_deformable_detr(monkeypatch):
    """Also of predictions that are certain. Its matrix has no 1e-6 beside areas, from which the tolerance is."""
    labels, (logits, boxes) = random_labels(3, 0, 2), predictions(3)
    logits[:, :, 0], logits[:, :, 1] = 100.0, -100.0
    seen = []
    monkeypatch.setattr(loss_deformable_detr, "linear_sum_assignment", lambda cost: seen.append(cost) or ([], []))
    matcher = loss_deformable_detr.DeformableDetrHungarianMatcher(class_cost=1.5, bbox_cost=4.0, giou_cost=3.0)
    cost = matching_cost(logits, boxes, targets_of(labels), tiny_config(class_cost=1.5, bbox_cost=4.0, giou_cost=3.0))
    assert cost.shape == (5, LAYERS, QUERIES) and cost.isfinite().all()
    for layer in range(LAYERS):
        seen.clear()
        matcher({"logits": logits[layer], "pred_boxes": boxes[layer]}, labels)
        theirs = torch.cat([torch.as_tensor(image_cost).T for image_cost in seen])
        torch.testing.assert_close(cost[:, layer], theirs, atol=1e-3, rtol=0)


def test_no_other_assignment_is_cheaper():
    labels, (logits, boxes) = random_labels(3, 2), predictions(2)
    targets, config = targets_of(labels), tiny_config()
    cost, matched = matching_cost(logits, boxes, targets, config), assign(logits, boxes, targets, config)
    for layer in range(LAYERS):
        for image, own in enumerate(([0, 1, 2], [3, 4])):
            here = matched.image == image
            pairs = dict(zip(matched.target[layer, here].tolist(), matched.query[layer, here].tolist()))
            assert sorted(pairs) == own and len(set(pairs.values())) == len(own)
            found = sum(cost[target, layer, query] for target, query in pairs.items())
            cheapest = min(
                sum(cost[target, layer, query] for target, query in zip(own, queries))
                for queries in permutations(range(QUERIES), len(own))
            )
            assert found.item() == pytest.approx(cheapest.item())


def test_an_image_with_more_boxes_than_queries_has_all_queries_matched():
    labels, (logits, boxes) = random_labels(QUERIES + 2, 1), predictions(2)
    matched = assign(logits, boxes, targets_of(labels), tiny_config())
    assert matched.image.tolist() == [0] * QUERIES + [1]
    assert all(sorted(queries[:QUERIES]) == list(range(QUERIES)) for queries in matched.query.tolist())
    assert matched.target[:, -1].tolist() == [QUERIES + 2] * LAYERS


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_told_by_layer(bad):
    labels, (logits, boxes) = random_labels(2, 1), predictions(2)
    logits[1, 0, :, :], boxes[0, 1, 2, 3] = bad, float("nan")
    with pytest.raises(NonFinitePredictions) as fault:
        assign(logits, boxes, targets_of(labels), tiny_config())
    assert fault.value.finite_logits == [True, False] and fault.value.finite_boxes == [False, True]
