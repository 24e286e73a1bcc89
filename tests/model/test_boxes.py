"""Box arithmetic against torchvision's and numbers by hand."""

import pytest
import torch
from helpers.tiny import random_labels
from torchvision.ops import box_convert, generalized_box_iou

from dino_detr.boxes import cxcywh_to_xyxy, generalized_iou, inverse_sigmoid, xyxy_to_cxcywh

BOXES = random_labels(8)[0]["boxes"]


def test_forms_of_boxes_are_torchvisions():
    corners = box_convert(BOXES, "cxcywh", "xyxy")
    torch.testing.assert_close(cxcywh_to_xyxy(BOXES), corners)
    torch.testing.assert_close(xyxy_to_cxcywh(corners), BOXES)


def test_generalized_iou_is_torchvisions():
    corners = box_convert(BOXES, "cxcywh", "xyxy")
    ours, theirs = generalized_iou(corners[:, None], corners[None]), generalized_box_iou(corners, corners)
    assert theirs.min() < -0.5 and theirs.max() == 1
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)  # 1e-6 is added to areas from 0.01 on
    apart = torch.tensor([[0.0, 0.0, 0.1, 0.1]]), torch.tensor([[0.9, 0.9, 1.0, 1.0]])
    assert generalized_iou(*apart).item() == pytest.approx(-0.98, abs=1e-5)


def test_the_inverse_of_sigmoid_stays_within_its_bounds():
    inside = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(inverse_sigmoid(inside).sigmoid(), inside)
    ends = inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    assert ends.tolist() == pytest.approx([-6.9078, -6.9078, 6.9078, 6.9078], abs=1e-3)  # log(1e-3 / 1)
