"""Boxes are drawn where they are, and their classes can be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from dino_detr.evaluation import draw_detections
from dino_detr.evaluation.pictures import draw_samples, draw_truth_and_detections


def test_boxes_are_drawn_where_they_are():
    image = Image.new("L", (600, 500), 128)
    detections = {
        "scores": torch.tensor([0.9, 0.4, 0.2]),
        "labels": torch.tensor([0, 1, 2]),
        "boxes": torch.tensor([[100.0, 200.0, 300.0, 400.0], [560.0, 2.0, 640.0, 90.0], [599.5, 0.0, 600.0, 9.0]]),
    }
    picture = draw_detections(image, detections, {0: "cat", 1: "a class with a name too long for the picture" * 3})
    assert picture.size == image.size and picture.mode == "RGB"
    assert picture.getpixel((200, 200)) == picture.getpixel((300, 300)) != (128, 128, 128)  # on two of the edges
    assert picture.getpixel((200, 300)) == picture.getpixel((450, 450)) == (128, 128, 128)  # inside, outside
    assert image.getpixel((200, 200)) == 128  # the original is left alone

    nothing = draw_detections(image, {"scores": [], "labels": [], "boxes": []}, {})
    assert (np.asarray(nothing) == 128).all()


class Samples(torch.utils.data.Dataset):
    """Five black samples of growing width with a box in the middle, the last without one."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        width = 400 + 140 * index
        box = {"bbox": [width / 4, 100.0, width / 2, 200.0], "category_id": 1, "area": 1.0, "iscrowd": 0}
        image = torch.zeros(3, 400, width, dtype=torch.uint8)
        return {"image": image, "annotation": {"image_id": index, "annotations": [box] if index < 4 else []}}


def test_samples_are_drawn_in_a_grid():
    """The widest, 960 pixels, is drawn at half its size; there, its box would be 120 to 360 x 50 to 150."""
    grid = np.asarray(draw_samples(Samples(), {1: "cat"}, 9)).astype(int)
    assert grid.shape == (800, 4 * 480, 3)
    assert (grid[:400, 400:480] == 255).all()  # beside the first, of 400 pixels
    first, last = grid[:400, :400], grid[400:, :480]
    edges = (first.max(2) > 0).nonzero()
    assert [edges[1].min(), edges[1].max(), edges[0].max()] == pytest.approx([100, 300, 300], abs=2)
    assert (last[:200] == 0).all() and (last[200:] == 255).all()
    third = grid[:400, 960:1440]  # 680 x 400 at 480 x 282, its box at 120 to 360 x 71 to 212
    columns = (third[150].max(1) > 0).nonzero()[0]
    assert [columns.min(), columns.max()] == pytest.approx([120, 360], abs=2)
    assert np.asarray(draw_samples(Samples(), {1: "cat"}, 2)).shape[1] == 2 * 480


def test_what_was_found_stands_beside_the_truth():
    """Captions above, the better half of the boxes below the threshold, a large image made smaller."""
    image, names = Image.new("RGB", (1280, 640)), {0: "cat", 1: "dog"}
    truth = {"labels": [0], "boxes": [[320.0, 160.0, 640.0, 480.0]]}
    found = {"scores": [0.3, 0.8], "labels": [1, 0], "boxes": [[0, 0, 100, 100], [320.0, 160.0, 960.0, 480.0]]}
    pair = np.asarray(draw_truth_and_detections(image, truth, found, names, 0.5)).astype(int)
    assert pair.shape == (24 + 320, 640 + 8 + 640, 3)
    row = pair[24 + 200]  # through both boxes, below the labels
    edges = [(half.max(1) > 0).nonzero()[0] for half in (row[:640], row[648:])]
    assert [side for half in edges for side in (half.min(), half.max())] == pytest.approx([160, 320, 160, 480], abs=2)
    nothing = np.asarray(draw_truth_and_detections(image, truth, found, names, 0.9)).astype(int)
    assert (nothing[24:, 648:] == 0).all() and (nothing[:24, 648:] != pair[:24, 648:]).any()
    none_at_all = {"scores": [], "labels": [], "boxes": []}
    draw_truth_and_detections(image, none_at_all, none_at_all, names, 0.5)
