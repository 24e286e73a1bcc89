"""Matching and losses against both written plainly, layer by layer and image by image."""

import math

import numpy as np
import pytest
import torch
from helpers.tiny import (
    random_images,
    random_labels,
    tiny_detector,
)
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, box_iou, generalized_box_iou, sigmoid_focal_loss

from dino_detr.denoising import DenoisingQueries
from dino_detr.loss import count_boxes, denoising_assignment
from dino_detr.matching import assign
from dino_detr.targets import Targets

TERMS = ("loss_class", "loss_bbox", "loss_giou")


def noise_of(half_group: int, num_groups: int, batch_size: int) -> DenoisingQueries:
    slots = 2 * num_groups * half_group
    return DenoisingQueries(
        torch.zeros(batch_size, slots, dtype=torch.int64), torch.zeros(batch_size, slots, 4), num_groups
    )


def test_boxes_are_counted_and_those_that_are_denoised():
    targets = Targets.from_labels(random_labels(3, 0, 5), 3, torch.device("cpu"))
    assert count_boxes(targets, noise_of(2, 3, 3), across_processes=True).tolist() == [8, 4]
    assert count_boxes(targets, None, across_processes=False).tolist() == [8, 1]
    none = Targets.from_labels(random_labels(0, 0), 2, torch.device("cpu"))
    assert count_boxes(none, None, across_processes=True).tolist() == [1, 1]


def test_positive_slots_belong_to_the_boxes_they_were_made_from():
    """Two groups of three positive, three negative slots: boxes 0 and 1, box 2, and of the last image three of four."""
    targets = Targets.from_labels(random_labels(2, 1, 4), 3, torch.device("cpu"))
    noise = noise_of(3, 2, 3)
    noise.box_index = torch.tensor([[0, 1, 9], [0, 9, 9], [3, 0, 2]])
    matched = denoising_assignment(noise, targets, num_layers=2)
    assert matched.image.tolist() == [0, 0, 1, 2, 2, 2] * 2
    assert matched.query.tolist() == [[0, 1, 0, 0, 1, 2, 6, 7, 6, 6, 7, 8]] * 2
    assert matched.target.tolist() == [[0, 1, 2, 6, 3, 5] * 2] * 2
    noise.box_index = None
    assert denoising_assignment(noise, targets, num_layers=1).target.tolist() == [[0, 1, 2, 3, 4, 5] * 2]


def test_denoising_losses_are_means_over_the_boxes_of_all_groups():
    labels = random_labels(3, 1)
    outputs = tiny_detector(num_denoising=10).train()(random_images(2, 3, 64, 64), labels=labels)
    restored = outputs.denoising_boxes[-1].unflatten(1, (3, 2, 3))[:, :, 0]  # images, groups, positive slots
    distance = (restored[0] - labels[0]["boxes"]).abs().sum() + (restored[1, :, :1] - labels[1]["boxes"]).abs().sum()
    torch.testing.assert_close(outputs.loss_dict["loss_bbox_dn"], distance / (4 * 3))


def test_the_loss_is_the_weighted_sum_of_its_terms():
    weights = {"loss_class": 3.0, "loss_bbox": 7.0, "loss_giou": 11.0}
    names = ("class_loss_coefficient", "bbox_loss_coefficient", "giou_loss_coefficient")
    model = tiny_detector(decoder_layers=3, **dict(zip(names, weights.values()))).train()
    outputs = model(random_images(2, 3, 64, 64), labels=random_labels(3, 1))
    total = sum(weights[name[:10].rstrip("_")] * term for name, term in outputs.loss_dict.items())
    assert len(outputs.loss_dict) == 3 * 7 and len({term.item() for term in outputs.loss_dict.values()}) == 21
    torch.testing.assert_close(outputs.loss, total)


def test_loss_terms_have_the_references_names():
    outputs = tiny_detector(decoder_layers=3).train()(random_images(1, 3, 64, 64), labels=random_labels(2))
    suffixes = ["", "_0", "_1", "_enc", "_dn", "_dn_0", "_dn_1"]
    assert set(outputs.loss_dict) == {term + suffix for term in TERMS for suffix in suffixes}


@pytest.mark.parametrize("num_denoising", [10, 0])
def test_a_batch_without_boxes_trains_on_the_same_terms(num_denoising):
    model = tiny_detector(num_denoising=num_denoising).train()
    images = random_images(2, 3, 64, 64)
    full, empty = (model(images, labels=random_labels(*counts)) for counts in ([2, 1], [0, 0]))
    assert set(full.loss_dict) == set(empty.loss_dict)
    assert torch.isfinite(empty.loss) and empty.loss_dict["loss_class"] > 0 and empty.loss_dict["loss_bbox"] == 0
    before = model.model.class_embed[0].bias.detach().clone()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).zero_grad()
    empty.loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    after = model.model.class_embed[0].bias.detach()
    assert (after < before).all()  # nothing is there, and it learns so
    with torch.no_grad():
        assert torch.isfinite(model(images, labels=random_labels(0, 0)).loss)


def plain_matching(logits, boxes, label, config):
    """The assignment of one layer of one image: (queries, targets), the cost as Deformable DETR's text has it."""
    cost = np.zeros((len(logits), len(label["boxes"])))
    probability = logits.double().sigmoid().tolist()
    overlap = generalized_box_iou(*(box_convert(b.double(), "cxcywh", "xyxy") for b in (boxes, label["boxes"])))
    for query in range(cost.shape[0]):
        for target in range(cost.shape[1]):
            p = probability[query][int(label["class_labels"][target])]
            positive = -config.focal_alpha * (1 - p) ** config.focal_gamma * math.log(p + 1e-8)
            negative = -(1 - config.focal_alpha) * p**config.focal_gamma * math.log(1 - p + 1e-8)
            distance = float((boxes[query] - label["boxes"][target]).abs().sum())
            cost[query, target] = (
                config.class_cost * (positive - negative)
                + config.bbox_cost * distance
                - config.giou_cost * float(overlap[query, target])
            )
    return linear_sum_assignment(cost)


def plain_iou_aware_loss(logits, classes, queries, overlap, alpha, gamma):
    """Of one image, in words of Align-DETR's equations, entry by entry."""
    total = torch.zeros(logits.shape)
    for query in range(logits.shape[0]):
        for label in range(logits.shape[1]):
            p = torch.sigmoid(logits[query, label]).double()
            positions = [i for i, (q, c) in enumerate(zip(queries, classes)) if (q, c) == (query, label)]
            if positions:
                t = max((p**alpha * overlap[positions[0]].double() ** (1 - alpha)).item(), 0.01)
                total[query, label] = -t * p.log() - (1 - t) * (1 - p).log()
            else:
                total[query, label] = -(p**gamma) * (1 - p).log()
    return total.sum(0)


@pytest.mark.parametrize(
    ("class_loss", "class_weights"), [("focal", None), ("focal", [1.0, 0.5, 4.0]), ("iou_aware", [1.0, 0.5, 4.0])]
)
def test_matching_and_losses_are_those_of_each_layer_and_image_alone(class_loss, class_weights):
    """Images without boxes and with more boxes than queries included."""
    images, labels = random_images(3, 3, 64, 64), random_labels(4, 0, 25)
    costs = {"class_cost": 1.5, "bbox_cost": 4, "giou_cost": 3, "focal_alpha": 0.4, "focal_gamma": 1.5}
    model = tiny_detector(**costs, class_loss=class_loss, class_weights=class_weights)
    outputs = model(images, labels=labels)
    targets = Targets.from_labels(labels, 3, torch.device("cpu"))
    assigned = assign(outputs.auxiliary_logits, outputs.auxiliary_boxes, targets, model.config)

    for layer, suffix in enumerate(["_0", "", "_enc"]):
        losses, offset = dict.fromkeys(TERMS, 0.0), 0
        for image, label in enumerate(labels):
            logits, boxes = outputs.auxiliary_logits[layer, image], outputs.auxiliary_boxes[layer, image]
            queries, matched = plain_matching(logits.detach(), boxes.detach(), label, model.config)
            here = assigned.image == image
            pairs = zip(assigned.query[layer, here].tolist(), (assigned.target[layer, here] - offset).tolist())
            assert set(pairs) == set(zip(queries.tolist(), matched.tolist()))
            offset += len(label["boxes"])

            classes = label["class_labels"][matched]
            pairs = [box_convert(b, "cxcywh", "xyxy") for b in (boxes[queries], label["boxes"][matched])]
            if class_loss == "focal":
                expected = torch.zeros_like(logits)
                expected[queries, classes] = 1
                of_classes = sigmoid_focal_loss(logits, expected, alpha=0.4, gamma=1.5).sum(0)
            else:
                overlap = box_iou(*pairs).diagonal()
                of_classes = plain_iou_aware_loss(logits, classes.tolist(), queries.tolist(), overlap, 0.4, 1.5)
            losses["loss_class"] += (of_classes * torch.tensor(class_weights or [1.0] * 3)).sum()
            losses["loss_bbox"] += (boxes[queries] - label["boxes"][matched]).abs().sum()
            losses["loss_giou"] += (1 - generalized_box_iou(*pairs).diagonal()).sum()
        for term, value in losses.items():
            torch.testing.assert_close(outputs.loss_dict[term + suffix], value / 29, atol=1e-4, rtol=1e-4)
