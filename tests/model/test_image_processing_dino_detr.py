"""Images and annotations become tensors, outputs become boxes in pixels."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny import (
    tiny_detector,
)
from PIL import Image
from torchvision.ops import box_convert, nms
from transformers.image_utils import AnnotationFormat

from dino_detr import DinoDetrImageProcessor
from dino_detr.data.augmentation import Draws, multi_scale
from dino_detr.modeling_dino_detr import DinoDetrObjectDetectionOutput


@pytest.fixture(scope="module")
def processor():
    return DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})


def predictions(boxes, scores):
    """One image; `scores` `[Q, K]`."""
    logits = torch.logit(torch.tensor(scores, dtype=torch.float32))[None]
    return DinoDetrObjectDetectionOutput(logits=logits, pred_boxes=torch.tensor(boxes, dtype=torch.float32)[None])


def test_detections_are_the_best_clipped_and_never_empty(processor):
    boxes = [
        [0.5, 0.5, 0.5, 0.5],
        [0.0, 0.0, 0.5, 0.5],  # half outside
        [0.5, 0.5, 0.0, 0.5],  # empty
        [-0.5, 0.5, 0.5, 0.5],  # empty once clipped
    ]
    outputs = predictions(boxes, [[0.9, 0.2], [0.3, 0.8], [0.99, 0.98], [0.97, 0.96]])

    def detect(**arguments):
        (result,) = processor.post_process_object_detection(outputs, **arguments)
        assert set(result) == {"scores", "labels", "boxes"}
        return result["scores"].tolist(), result["labels"].tolist(), result["boxes"].tolist()

    scores, labels, found = detect(threshold=0.0, target_sizes=[(100, 200)])
    assert scores == pytest.approx([0.9, 0.8, 0.3, 0.2]) and labels == [0, 1, 0, 1]
    first, second = [50, 25, 150, 75], [0, 0, 50, 25]
    for box, expected in zip(found, [first, second, second, first]):
        assert box == pytest.approx(expected)
    assert detect(threshold=0.5, target_sizes=torch.tensor([[100, 200]]))[1] == [0, 1]
    assert detect(threshold=0.85)[2][0] == pytest.approx([0.25, 0.25, 0.75, 0.75])
    assert detect(threshold=0.0, top_k=5)[0] == pytest.approx([0.9])  # the four best are empty
    assert detect()[1] == [0, 1]
    for sizes in ([(100, 200), (100, 200)], [100, 200], [(100, 200, 3)]):
        with pytest.raises(ValueError, match="target_sizes"):
            processor.post_process_object_detection(outputs, target_sizes=sizes)


def test_post_processing_without_duplicates(processor):
    """One label a query is argmax; suppression is torchvision's, over all classes together."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 4, generator=generator) * 0.4 + 0.3
    scores = torch.rand(40, 3, generator=generator)
    outputs = predictions(boxes.tolist(), scores.tolist())

    def detect(**arguments):
        (found,) = processor.post_process_object_detection(outputs, threshold=0.0, **arguments)
        return found

    by_default = detect()
    assert len(by_default["scores"]) == 120
    single = detect(one_label_per_query=True)
    best, labels = scores.max(1)
    order = best.argsort(descending=True)
    assert single["scores"].tolist() == pytest.approx(best[order].tolist())
    assert single["labels"].tolist() == labels[order].tolist()
    corners = box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1)
    assert single["boxes"].flatten().tolist() == pytest.approx(corners[order].flatten().tolist())
    assert len(detect(one_label_per_query=True, top_k=50)["scores"]) == 40
    assert detect(one_label_per_query=True, top_k=7)["labels"].tolist() == labels[order][:7].tolist()

    for found, arguments in ((by_default, {}), (single, {"one_label_per_query": True})):
        suppressed = detect(nms_threshold=0.6, **arguments)
        kept = nms(found["boxes"], found["scores"], 0.6)
        assert 5 < len(kept) < 40
        assert all(torch.equal(suppressed[name], found[name][kept]) for name in ("scores", "labels", "boxes"))
    with pytest.raises(ValueError, match=r"nms_threshold=60: an IoU, from 0 to 1"):
        detect(nms_threshold=60)


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_images_come_as_pil_array_tensor_path_or_list(processor, picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    array = np.asarray(picture)
    expected = processor(picture, return_tensors="pt")
    assert expected["pixel_values"].shape == (1, 3, 64, 96) and expected["pixel_values"].dtype == torch.float32
    assert expected["pixel_mask"].shape == (1, 64, 96) and expected["pixel_mask"].all()
    for images in (
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        str(tmp_path / "picture.png"),
        [picture],
    ):
        given = processor(images, return_tensors="pt")
        assert torch.equal(given["pixel_values"], expected["pixel_values"])
    pair = processor([picture, array], return_tensors="pt")["pixel_values"]
    assert torch.equal(pair, expected["pixel_values"].repeat(2, 1, 1, 1))


def test_pixels_are_normalised_and_padded_at_the_right_and_bottom(processor):
    small, wide = Image.new("RGB", (64, 64), (255, 0, 128)), Image.new("RGB", (96, 64), (0, 0, 0))
    batch = processor([small, wide], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 64, 96)
    assert batch["pixel_mask"][0, :, :64].all() and not batch["pixel_mask"][0, :, 64:].any()
    assert not batch["pixel_values"][0, :, :, 64:].any()
    expected = (np.array([255, 0, 128]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(batch["pixel_values"][0, :, 10, 10].numpy(), expected, atol=1e-5)


def test_pictures_of_every_kind_become_the_same_upright_rgb(processor, picture, tmp_path):
    def pixels(image):
        return processor(image, return_tensors="pt")["pixel_values"]

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = pixels(picture.transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(pixels(Image.open(tmp_path / "turned.png")), upright)
    assert torch.equal(pixels(str(tmp_path / "turned.png")), upright)

    grey = picture.convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256)
    assert sixteen.mode.startswith("I;16")
    for image in (grey, sixteen, grey.convert("P"), grey.convert("LA"), grey.convert("RGBA")):
        assert torch.equal(pixels(image), pixels(grey.convert("RGB"))), image.mode
        image.save(tmp_path / "kind.png")
        assert torch.equal(pixels(str(tmp_path / "kind.png")), pixels(image)), f"path to {image.mode}"
    for array in (np.asarray(grey)[None], np.asarray(grey)[..., None]):
        assert torch.equal(pixels(array), pixels(grey)), f"array of {array.shape}"
    assert torch.equal(pixels(picture.convert("CMYK")), pixels(picture.convert("CMYK").convert("RGB")))


def test_annotations_become_labels_as_documented(processor):
    objects = [
        {"bbox": [10, 20, 30, 40], "category_id": 2, "area": 900, "iscrowd": 0},
        {"bbox": [180, 90, 40, 40], "category_id": 0},  # reaches over the right and bottom border; no area
        {"bbox": [10, 10, 50, 50], "category_id": 1, "iscrowd": 1},  # a crowd
        {"bbox": [10, 10, 0, 5], "category_id": 1},  # empty
        {"bbox": [300, 10, 5, 5], "category_id": 1},  # outside
    ]
    annotations = [{"image_id": 17, "annotations": objects}, {"image_id": 18, "annotations": []}]
    images = [Image.new("RGB", (200, 100)), Image.new("RGB", (50, 100))]
    batch = processor(images, annotations=annotations, return_tensors="pt")
    label, empty = batch["labels"]
    assert label["class_labels"].tolist() == [2, 0] and label["class_labels"].dtype == torch.int64
    expected = torch.tensor([[25 / 200, 40 / 100, 30 / 200, 40 / 100], [190 / 200, 95 / 100, 20 / 200, 10 / 100]])
    torch.testing.assert_close(label["boxes"], expected)
    assert label["orig_size"].tolist() == [100, 200] and label["size"].tolist() == [48, 96]  # the longest edge rules
    assert label["area"].tolist() == pytest.approx([900 * 0.48**2, 1600 * 0.48**2])
    assert label["iscrowd"].tolist() == [0, 0] and label["image_id"].tolist() == [17]
    assert empty["boxes"].shape == (0, 4) and empty["class_labels"].shape == (0,) and empty["image_id"].tolist() == [18]
    assert empty["size"].tolist() == [96, 48]

    one = processor(images[0], annotations=annotations[0], return_tensors="pt")["labels"]
    assert torch.equal(one[0]["boxes"], label["boxes"])
    outputs = tiny_detector().train()(**batch)
    assert torch.isfinite(outputs.loss)


@pytest.mark.parametrize("lacking", ["image_id", "annotations", "bbox", "category_id"])
def test_an_annotation_that_lacks_a_field_is_refused_by_name(processor, picture, lacking):
    annotation = {"image_id": 3, "annotations": [{"bbox": [1, 2, 3, 4], "category_id": 0}]}
    for holder in (annotation, *annotation["annotations"]):
        if lacking in holder:
            del holder[lacking]
            break
    with pytest.raises(ValueError, match=lacking):
        processor(picture, annotations=annotation)
    with pytest.raises(ValueError, match="2 images"):
        processor(picture, annotations=[copy.deepcopy(annotation)] * 2)


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
    draws = Draws(*[0.0] * 7)
    assert multi_scale(size[1], size[0], draws, [edges[0]], edges[1])[1] == tuple(pixels.shape[-2:])


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
