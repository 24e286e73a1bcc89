"""What was found is a sequence, a picture, COCO results, and supervision's detections."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers.tiny import random_images
from PIL import Image, ImageChops
from pycocotools.coco import COCO

from dino_detr.evaluation import draw_detections
from dino_detr.inference import Detections
from dino_detr.inference.inputs import GivenImage

PIXELS = (random_images(3, 50, 80) * 50 + 100).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def found() -> Detections:
    boxes = torch.tensor([[1.0, 2, 11, 22], [30, 10, 80, 50], [5, 5, 9, 9]])
    labels, scores = torch.tensor([1, 0, 1]), torch.tensor([0.9, 0.5, 0.25])
    names = {0: "cat", 1: "dog"}
    return Detections(boxes, scores, labels, (50, 80), names, [7, 3], GivenImage(PIXELS, "image 4"))


def test_it_is_a_sequence(found):
    assert len(found) == 3 and found.names == ["dog", "cat", "dog"]
    assert found[0] == ("dog", pytest.approx(0.9), 1, (1, 2, 11, 22)) and found[-1].score == 0.25
    assert [one.name for one in found] == found.names
    for index in (slice(0, 2), found.scores > 0.3, [0, 1], np.array([True, True, False]), torch.tensor([0, 1])):
        some = found[index]
        assert isinstance(some, Detections) and some.names == ["dog", "cat"] and some.boxes.shape == (2, 4)
    assert len(found[found.scores > 1]) == 0 and list(found[:0]) == []
    assert found["boxes"] is found.boxes
    with pytest.raises(IndexError):
        found[3]


def test_it_says_what_it_holds(found):
    assert repr(found) == "Detections(image 4: 2 dog, 1 cat, scores 0.25 to 0.90)"
    assert repr(found[:0]) == "Detections(image 4: nothing)"


def test_it_is_drawn(found):
    blank = Image.new("RGB", (80, 50))
    columns = {"scores": [0.9, 0.5, 0.25], "labels": [1, 0, 1], "boxes": found.boxes.tolist()}
    expected = draw_detections(blank, columns, found.id2label)
    assert ImageChops.difference(found.draw(blank), expected).getbbox() is None
    assert ImageChops.difference(found[:0].draw(), expected).getbbox() is not None
    nothing = found[:0].draw()
    assert torch.equal(
        torch.tensor(np.array(nothing.resize((80, 50), Image.Resampling.NEAREST))).permute(2, 0, 1), PIXELS
    )


def test_it_becomes_coco_results(found):
    truth = COCO()
    truth.dataset = {"images": [{"id": 5}], "categories": [{"id": 3}, {"id": 7}], "annotations": []}
    truth.createIndex()
    rows = found.to_coco(5)
    loaded = truth.loadRes(rows)
    assert [entry["bbox"] for entry in loaded.anns.values()] == [[1, 2, 10, 20], [30, 10, 50, 40], [5, 5, 4, 4]]
    assert [row["category_id"] for row in rows] == [3, 7, 3] and found.to_coco()[0]["image_id"] == "image 4"


def test_it_becomes_supervisions(found):
    sv = pytest.importorskip("supervision")
    theirs = found.to_supervision()
    expected = sv.Detections.from_transformers(
        {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}, found.id2label
    )
    assert theirs == expected and theirs.data["class_name"].tolist() == found.names
    nothing = found[:0].to_supervision()
    assert len(nothing) == 0 and nothing.xyxy.shape == (0, 4)
    assert len(sv.Detections.merge([nothing, theirs])) == 3


def test_it_can_be_copied_and_pickled(found):
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert list(other) == list(found) and repr(other) == repr(found)
