"""Where the golden numbers are, how many threads the tests take, and something to train on."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from launching import RECIPE
from PIL import Image

from dino_detr.data.digits import render_scene

ROOT = Path(__file__).parent.parent
CORE = ROOT / "tests" / "golden"  # weights, batches, outputs and losses: enough for a clone to test itself
FULL = ROOT.parent / "shared" / "golden"  # gradients and intermediates too
BCCD = ROOT.parent / "shared" / "data" / "bccd"

# several workers with several threads each would wait for one another
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def core_golden() -> Path:
    return CORE


@pytest.fixture(scope="session")
def full_golden() -> Path:
    if not FULL.is_dir():
        pytest.skip("the full golden set is not here")
    return FULL


@pytest.fixture(scope="session")
def bccd() -> Path:
    if not BCCD.is_dir():
        pytest.skip("BCCD is not here")
    return BCCD


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A COCO folder of digit scenes with category ids that have gaps: 9 images to train on, 7 to evaluate on."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    for split, count in (("train", 9), ("val", 7)):
        (folder / split).mkdir()
        images, annotations = [], []
        for index in range(count):
            pixels, boxes, digits = render_scene(split, index)
            name = f"{index:03}.png"
            Image.fromarray(pixels).save(folder / split / name)
            height, width = pixels.shape[:2]
            images.append({"id": index + 100, "file_name": name, "width": width, "height": height})
            for box, digit in zip(boxes, digits):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 100,
                        "category_id": 3 * digit + 2,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": 3 * digit + 2, "name": f"digit {digit}"} for digit in range(10)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def recipe(data) -> Path:
    path = data / "tiny.yaml"
    path.write_text(yaml.safe_dump({"dataset": str(data), **RECIPE}))
    return path
