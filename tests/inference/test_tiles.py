"""Tiles find what the whole image is too small for, each object once."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_detr import Detector
from dino_detr.cli import main
from dino_detr.inference.tiles import place_tiles

COLORS = np.array([[255, 0, 0], [0, 255, 0]])


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
