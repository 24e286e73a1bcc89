"""A detector that finds things of all scores in any image, and photographs."""

from types import SimpleNamespace

import pytest
import torch
from helpers.detecting import checkpoint, photos  # noqa: F401 fixtures
from scipy import ndimage
from torch import nn

from dino_detr import Detector

SMALLEST = 5  # pixels of the processed image: what the stand-in below can see


class SeesLargeBlobs(nn.Module):
    """Finds red (class 0) and green (class 1) rectangles on black, if they have 5 pixels or more a side."""

    device = torch.device("cpu")

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, pixel_values):
        height, width = pixel_values.shape[2:]
        logits = torch.full((len(pixel_values), 200, self.config.num_labels), -20.0)
        boxes = torch.zeros(len(pixel_values), 200, 4)
        for number, image in enumerate(pixel_values):
            query = 0
            for label in (0, 1):
                regions, _ = ndimage.label(image[label].numpy() > 0.3)
                for rows, columns in ndimage.find_objects(regions):
                    if min(rows.stop - rows.start, columns.stop - columns.start) >= SMALLEST:
                        x1, x2, y1, y2 = columns.start, columns.stop, rows.start, rows.stop
                        boxes[number, query] = torch.tensor([x1 + x2, y1 + y2, 2 * (x2 - x1), 2 * (y2 - y1)]) / 2
                        boxes[number, query] /= torch.tensor([width, height, width, height])
                        logits[number, query, label] = 2
                        query += 1
        return SimpleNamespace(logits=logits, pred_boxes=boxes)


@pytest.fixture
def sees_large_blobs(monkeypatch):
    """In place of any model. The processor of the checkpoint makes the longer side 96 pixels at most."""
    load = Detector.__init__

    def load_and_replace(self, *arguments):
        load(self, *arguments)
        self.model = SeesLargeBlobs(self.model.config)
        self.processor.do_normalize = False

    monkeypatch.setattr(Detector, "__init__", load_and_replace)
