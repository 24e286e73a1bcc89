"""A detector that finds things of all scores in any image, and photographs, as files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_detr import DinoDetrImageProcessor
from helpers.tiny import tiny_detector

ORIENTATION = 0x0112  # an EXIF tag


def save_detector(folder: Path) -> Path:
    """Cats, dogs and emus of the categories 3, 8 and 11, some with scores above 0.5, some below."""
    model = tiny_detector()
    with torch.no_grad():
        for head in model.model.class_embed:
            head.bias += 4
    model.config.category_ids = [3, 8, 11]
    model.save_pretrained(folder)
    DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


def save_photos(folder: Path) -> Path:
    """Five images of three sizes, the second turned by EXIF."""
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate([(96, 64), (96, 64), (80, 80), (120, 60), (96, 64)]):
        exif = Image.Exif()
        exif[ORIENTATION] = 6 if number == 1 else 1
        pixels = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{number}.png", exif=exif)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_detector(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return save_photos(tmp_path_factory.mktemp("photos"))
