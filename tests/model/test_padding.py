"""Padding that only the labels tell of."""

import logging

import pytest
import torch
from helpers.tiny import (
    random_images,
    random_labels,
    tiny_detector,
)

IMAGES = random_images(2, 3, 64, 96)


def padded_batch(in_the_padding: float) -> tuple[torch.Tensor, torch.Tensor, list[dict]]:
    """Two images of 64x96 and 48x64 pixels; their labels have the processor's `size`."""
    images, mask, labels = IMAGES.clone(), torch.zeros(2, 64, 96, dtype=torch.int64), random_labels(3, 2)
    for index, (height, width) in enumerate([(64, 96), (48, 64)]):
        mask[index, :height, :width] = 1
        labels[index]["size"] = torch.tensor([height, width])
    return images.masked_fill(mask[:, None] == 0, in_the_padding), mask, labels


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("form", [torch.Tensor.int, torch.Tensor.tolist, torch.Tensor.numpy])
def test_padding_without_a_mask_is_padding_with_one(form, training):
    images, mask, labels = padded_batch(0.0)
    told = [label | {"size": form(label["size"])} for label in labels]
    model = tiny_detector().train(training)
    results = []
    for pixel_mask, given in ((mask, labels), (None, told)):
        torch.manual_seed(0)
        outputs = model(images, pixel_mask=pixel_mask, labels=given)
        model.zero_grad()
        outputs.loss.backward()
        results.append([outputs.loss, outputs.pred_boxes, model.model.level_embed.grad.clone()])
    assert all(torch.equal(masked, told) for masked, told in zip(*results))
    unmasked = model(images, labels=random_labels(3, 2))  # which say nothing of sizes
    assert not torch.equal(unmasked.pred_boxes, results[0][1])


def test_a_mask_made_from_labels_is_said_once(caplog):
    from transformers.utils import logging as transformers_logging

    transformers_logging.warning_once.cache_clear()
    images, _, labels = padded_batch(0.0)
    model = tiny_detector()
    with caplog.at_level(logging.WARNING):
        model(images, labels=labels)
        model(images, labels=labels)
    assert caplog.text.count("pixel_mask") == 2  # in one line


def test_labels_make_no_mask_where_they_tell_of_no_padding():
    """Not where all images fill the batch, nor where one was resized after its labels were made."""
    model, labels = tiny_detector(), random_labels(3, 2)
    expected = model(IMAGES, labels=labels).logits
    for sizes in ([(64, 96), (64, 96)], [(64, 96), (128, 40)]):
        told = [label | {"size": torch.tensor(size)} for label, size in zip(labels, sizes)]
        assert torch.equal(model(IMAGES, labels=told).logits, expected)


@pytest.mark.parametrize("size", [(0, 0), (-1, 96), (64,), (64, 96, 3), 64])
def test_a_size_in_labels_that_is_none_is_named(size):
    told = [label | {"size": torch.tensor(size)} for label in random_labels(3, 2)]
    with pytest.raises(ValueError, match=r"labels\[0\]: size is .* \(height, width\)"):
        tiny_detector()(IMAGES, labels=told)
