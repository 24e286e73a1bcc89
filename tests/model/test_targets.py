"""Labels that cannot be learned from are refused by name."""

import pytest
import torch
from helpers.tiny import (
    random_images,
    random_labels,
    tiny_detector,
)

from dino_detr.targets import Targets


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda batch: batch["labels"][1]["class_labels"].fill_(3), [r"labels\[1\]", "class_labels", "3 classes"]),
        (lambda batch: batch["labels"][1]["class_labels"].fill_(-1), [r"labels\[1\]", "class_labels", "-1"]),
        (lambda batch: batch["labels"][1]["boxes"].mul_(64), [r"labels\[1\]", "boxes", r"0\.\.1"]),
        (lambda batch: batch["labels"][1]["boxes"].fill_(float("nan")), [r"labels\[1\]", "boxes", "nan"]),
        (lambda batch: batch["labels"].pop(), ["labels", "1 images", "2"]),
        (lambda batch: batch["labels"][1].pop("boxes"), [r"labels\[1\]", "boxes"]),
        (lambda batch: batch["labels"][1].pop("class_labels"), [r"labels\[1\]", "class_labels"]),
        (
            lambda batch: batch["labels"][1].update(boxes=batch["labels"][1]["boxes"][:1]),
            [r"labels\[1\]", "boxes", "class_labels"],
        ),
        (lambda batch: batch.update(pixel_mask=torch.ones(2, 64, 32)), ["pixel_mask", "64, 64", "64, 32"]),
        (lambda batch: batch.update(pixel_mask=torch.ones(64, 64)), ["pixel_mask", "2, 64, 64"]),
    ],
    ids=[
        "label beyond num_labels",
        "negative label",
        "boxes in pixels",
        "boxes not a number",
        "labels of one image",
        "no boxes",
        "no class_labels",
        "fewer boxes than labels",
        "mask of another size",
        "mask without batch",
    ],
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_bad_input_is_refused_by_name(spoil, named, training):
    batch = {"pixel_values": random_images(2, 3, 64, 64), "labels": random_labels(2, 2)}
    spoil(batch)
    with pytest.raises(ValueError) as error:
        tiny_detector().train(training)(**batch)
    for part in named:
        error.match(part)


def test_boxes_on_the_border_are_not_refused():
    labels = [{"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 1.00001, 1.0]])}]
    assert torch.isfinite(tiny_detector().train()(random_images(1, 3, 64, 64), labels=labels).loss)


def test_targets_know_where_each_images_boxes_are():
    labels = random_labels(2, 0, 1)
    targets = Targets.from_labels(labels, 3, torch.device("cpu"))
    assert targets.image.tolist() == [0, 0, 2] and targets.offsets().tolist() == [0, 2, 2]
    classes, boxes = targets.padded(3)
    expected = [[*label["class_labels"].tolist(), -1, -1, -1][:3] for label in labels]
    assert classes.tolist() == expected
    assert torch.equal(boxes[0, :2], labels[0]["boxes"]) and torch.equal(boxes[2, 0], labels[2]["boxes"][0])
    assert boxes[classes < 0].abs().sum() == 0


def test_targets_that_were_built_before_are_taken_as_labels():
    model, images, labels = tiny_detector(), random_images(2, 3, 64, 64), random_labels(3, 1)
    built = Targets.from_labels(labels, 2, torch.device("cpu"))
    assert torch.equal(model(images, labels=built).loss, model(images, labels=labels).loss)


def test_the_first_bad_value_is_shown_with_its_image():
    labels = random_labels(2, 0, 3)
    labels[2]["boxes"][1] = torch.tensor([0.5, 0.25, 1.125, 0.125])
    with pytest.raises(ValueError, match=r"labels\[2\]: boxes holds \[0.5, 0.25, 1.125, 0.125\]"):
        tiny_detector()(random_images(3, 3, 64, 64), labels=labels)
    labels[0]["class_labels"][1] = 5
    with pytest.raises(ValueError, match=r"labels\[0\]: class_labels holds 5, .* 3 classes \(0..2\)"):
        tiny_detector()(random_images(3, 3, 64, 64), labels=labels)
