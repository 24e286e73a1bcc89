"""Evaluation never pads: its batches hold images of one processed size."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from tiny import tiny_detector

from dino_detr import DinoDetrImageProcessor
from dino_detr.evaluation.detections import detect


def test_an_evaluation_batch_has_one_size_and_no_padding():
    """Also where the rows say a wrong size. Every image once, its detections those that it has alone."""
    sizes = [(60, 40), (40, 60), (60, 40), (61, 40), (60, 40), (40, 60), (60, 40)]  # width, height
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
    said = [*sizes[:6], (61, 40)]
    rows = Dataset.from_dict(
        {
            "image": pictures,
            "image_id": [10 * index for index in range(7)],
            "width": [width for width, _ in said],
            "height": [height for _, height in said],
        },
        features=Features({"image": ImageFeature(), **dict.fromkeys(("image_id", "width", "height"), Value("int64"))}),
    )
    processor = DinoDetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    alone = [processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures]
    model = tiny_detector().eval()
    batches = []
    model.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0]))
    together = {found["image_id"]: found for found in detect(model, processor, rows, range(7), batch_size=3)}
    assert sorted(together) == [10 * index for index in range(7)]
    assert max(len(batch) for batch in batches) == 3
    seen = [image for batch in batches for image in batch]
    for pixels in alone:  # each image is in just one batch, as it is
        assert sum(image.shape == pixels[0].shape and torch.equal(image, pixels[0]) for image in seen) == 1
    for found in detect(model, processor, rows, range(7), batch_size=1):
        assert together[found["image_id"]]["scores"] == pytest.approx(found["scores"], abs=1e-5)
