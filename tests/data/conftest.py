"""Data sets that the tests of several modules read."""

import json

import pytest
from datasets import ClassLabel, Dataset
from helpers.animals import BOX, BOX_FEATURE, NAMES, columns, features, write_images
from helpers.coco_files import annotation, picture
from PIL import Image

CATEGORIES = [{"id": 7, "name": "seven"}, {"id": 90, "name": "ninety"}, {"id": 3, "name": "three"}]


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "pictures")


@pytest.fixture
def plain(images) -> Dataset:
    """With a ClassLabel and nothing that can be left out."""
    fields = {**BOX, "category": lambda _, box: box[0]}
    return Dataset.from_dict(
        columns(images, fields), features=features({**BOX_FEATURE, "category": ClassLabel(names=NAMES)})
    )


@pytest.fixture
def pictures(tmp_path):
    for shade in range(3):
        picture(tmp_path / "images" / f"p{shade}.png", shade)
    return tmp_path


@pytest.fixture
def content():
    """Two images with boxes, one with none; the second image's size is for the loader to find out."""
    return {
        "images": [
            {"id": 10, "file_name": "ten.png", "width": 60, "height": 40},
            {"id": 4, "file_name": "four.png"},
            {"id": 5, "file_name": "five.png", "width": 60, "height": 40},
        ],
        "annotations": [
            annotation(1, 10, 90, [1, 2, 30, 20], area=100.5, iscrowd=0),
            annotation(2, 4, 3, [0, 0, 10, 8]),
            annotation(3, 10, 7, [5, 5, 6, 6], area=36, iscrowd=1),
        ],
        "categories": CATEGORIES,
    }


@pytest.fixture
def write_folder(tmp_path):
    """A function that writes a folder of one split, train, with an image for every file name."""

    def write(content, roboflow=False):
        images = tmp_path / "train"
        images.mkdir(exist_ok=True)
        for image in content.get("images", ()):
            Image.new("RGB", (60, 40)).save(images / image["file_name"])
        file = images / "_annotations.coco.json" if roboflow else tmp_path / "annotations" / "instances_train.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        return tmp_path

    return write
