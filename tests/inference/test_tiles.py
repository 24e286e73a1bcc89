"""Tiles find what the whole image is too small for, each object once."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from dino_detr import Detector
from dino_detr.cli import main
from dino_detr.inference.tiles import place_tiles

SMALLEST = 5  # pixels of the processed image: what the stand-in below can see
COLORS = torch.tensor([[255, 0, 0], [0, 255, 0]])


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


@pytest.fixture
def scene(tmp_path):
    """600 x 400: 40 small objects on a grid that tiles' borders cross, and a large one. The file, and its objects."""
    pixels = np.zeros((400, 600, 3), dtype=np.uint8)
    objects = []
    for number in range(40):
        x, y, width, height = 15 + 70 * (number % 8), 10 + 74 * (number // 8), 16 + number % 9, 14 + number % 11
        objects.append((number % 2, [x, y, x + width, y + height]))
    objects.append((1, [540, 0, 600, 400]))
    for label, (x1, y1, x2, y2) in objects:
        pixels[y1:y2, x1:x2] = COLORS[label]
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png", objects


def pair(found, objects) -> set[int]:
    """Positions of the objects that were found; nothing else may be, and nothing twice."""
    paired = []
    for one in found:
        near = [
            number
            for number, (label, box) in enumerate(objects)
            if label == one.label and np.abs(np.array(box) - one.box).max() < 6
        ]
        assert len(near) == 1, one
        paired += near
    assert len(set(paired)) == len(paired)
    return set(paired)


def test_tiles_find_what_the_whole_image_does_not(checkpoint, scene, sees_large_blobs):
    path, objects = scene
    detector = Detector(checkpoint, "cpu")
    assert pair(detector(path)[0], objects) == {40}
    for overlap in (0.2, 0.4):
        assert pair(detector(path, tiles=160, overlap=overlap)[0], objects) == set(range(41))
    # in one batch or one after the other
    assert pair(detector([path, path], tiles=160, batch_size=1)[1], objects) == set(range(41))
    assert pair(detector(path, tiles=600)[0], objects) == {40}  # a tile is the whole image


def test_predict_takes_tiles(checkpoint, scene, sees_large_blobs, tmp_path):
    path, objects = scene
    main(["predict", str(checkpoint), str(path), "--output", str(tmp_path / "out"), "--tiles", "160"])
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(entry["detections"]) == len(objects)
    assert sum(one["label"] == "cat" for one in entry["detections"]) == 20


@pytest.mark.parametrize("size", [(100, 100), (101, 350), (999, 64), (50, 60)])
@pytest.mark.parametrize("overlap", [0, 0.3, 0.9])
def test_tiles_cover_the_image(size, overlap):
    height, width = size
    covered = np.zeros(size, dtype=int)
    whole, *tiles = place_tiles(height, width, 100, overlap)
    assert whole == (0, 0, width, height) and bool(tiles) == (max(size) > 100)
    for x1, y1, x2, y2 in tiles:
        assert (x2 - x1, y2 - y1) == (min(100, width), min(100, height))
        covered[y1:y2, x1:x2] += 1
    assert not tiles or covered.min() >= 1
    assert len(set(tiles)) == len(tiles)
