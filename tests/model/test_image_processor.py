"""What the image processor takes as those of in-tree detectors do, and sizes that it must not give."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import AnnotationFormat

from dino_detr import DinoDetrImageProcessor
from dino_detr.data.augmentation import multi_scale

BOX = {"bbox": [10, 20, 30, 40], "category_id": 1, "area": 1200, "iscrowd": 0}
ANNOTATION = {"image_id": 7, "annotations": [BOX]}
PICTURE = Image.new("RGB", (100, 80), "red")


def labels_of(**options) -> dict:
    processor = DinoDetrImageProcessor(size={"shortest_edge": 160, "longest_edge": 400})
    return processor(PICTURE, annotations=ANNOTATION, return_tensors="pt", **options)["labels"][0]


@pytest.mark.parametrize("size", [(20000, 50), (50, 20000), (30000, 1)])
@pytest.mark.parametrize("edges", [(800, 1333), (128, 213), (8, 20)])
def test_the_short_side_of_a_long_image_keeps_a_patch(size, edges):
    """... in the processor and where training resizes; not more than was asked for."""
    wanted = {"shortest_edge": edges[0], "longest_edge": edges[1]}
    pixels = DinoDetrImageProcessor(size=wanted)(Image.new("RGB", size), return_tensors="pt").pixel_values
    assert sorted(pixels.shape[-2:]) == [min(16, edges[0]), edges[1]]
    assert multi_scale(size[1], size[0], [0.0], [edges[0]], edges[1])[1] == tuple(pixels.shape[-2:])


def test_sizes_of_ordinary_images_are_transformers():
    for size, expected in (((640, 480), (800, 1066)), ((1000, 300), (400, 1333)), ((300, 300), (800, 800))):
        pixels = DinoDetrImageProcessor()(Image.new("RGB", size), return_tensors="pt").pixel_values
        assert tuple(pixels.shape[-2:]) == expected


@pytest.mark.parametrize("annotation_format", ["coco_detection", AnnotationFormat.COCO_DETECTION])
def test_the_format_of_annotations_can_be_said(annotation_format, tmp_path):
    torch.testing.assert_close(labels_of(format=annotation_format), labels_of())
    processor = DinoDetrImageProcessor(format=annotation_format, do_convert_annotations=False)
    processor.save_pretrained(tmp_path)
    assert DinoDetrImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_a_format_that_cannot_be_read_is_refused_by_name():
    with pytest.raises(ValueError, match="coco_panoptic"):
        labels_of(format="coco_panoptic")


def test_boxes_stay_in_pixels_unless_they_are_converted():
    labels = labels_of(do_convert_annotations=False)
    assert labels["size"].tolist() == [160, 200]
    torch.testing.assert_close(labels["boxes"], torch.tensor([[20.0, 40.0, 80.0, 120.0]]))
    torch.testing.assert_close(labels_of()["boxes"], torch.tensor([[0.25, 0.5, 0.3, 0.5]]))


SIZES = [(100, 200), (50, 80)]


@pytest.mark.parametrize(
    "target_sizes",
    [
        SIZES,
        tuple(SIZES),
        [list(size) for size in SIZES],
        torch.tensor(SIZES),
        [torch.tensor(size) for size in SIZES],
        tuple(torch.tensor(size, dtype=torch.float64) for size in SIZES),
        np.array(SIZES),
        [np.array(size) for size in SIZES],
        [torch.Size(size) for size in SIZES],
        [[torch.tensor(side) for side in size] for size in SIZES],
    ],
    ids=lambda sizes: type(sizes).__name__ + type(sizes[0]).__name__,
)
def test_target_sizes_come_in_any_form(target_sizes):
    outputs = SimpleNamespace(logits=torch.zeros(2, 1, 1), pred_boxes=torch.tensor([[[0.5, 0.5, 0.5, 0.5]]] * 2))
    found = DinoDetrImageProcessor().post_process_object_detection(outputs, threshold=0.1, target_sizes=target_sizes)
    for result, (height, width) in zip(found, SIZES):
        assert result["boxes"].tolist() == [[width * 0.25, height * 0.25, width * 0.75, height * 0.75]]


@pytest.mark.parametrize("target_sizes", [SIZES[:1], [torch.tensor(SIZES)], [(1, 2, 3), (4, 5, 6)], [(1, 2), (3,)], []])
def test_target_sizes_that_do_not_fit_are_refused_by_name(target_sizes):
    outputs = SimpleNamespace(logits=torch.zeros(2, 1, 1), pred_boxes=torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="target_sizes must be 2 pairs"):
        DinoDetrImageProcessor().post_process_object_detection(outputs, target_sizes=target_sizes)
