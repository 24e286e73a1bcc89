"""Packages that people use beside transformers, on a detector of ours: they find what `Detector` finds."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from helpers.tiny import random_images
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from dino_detr import Detector

THRESHOLD = 0.3


@pytest.fixture(scope="module")
def detector(checkpoint) -> Detector:
    return Detector(checkpoint, "cpu")


@pytest.fixture(scope="module")
def photo(photos) -> Image.Image:
    return Image.open(photos / "0.png").convert("RGB")


@pytest.fixture(scope="module")
def found(detector, photo):
    (found,) = detector(photo, threshold=THRESHOLD)
    assert len(found) > 5 and len(set(found.names)) > 1
    return found


def test_supervision(checkpoint, photo, found):
    """By transformers' own classes, as its documentation has it, and with its metric."""
    sv = pytest.importorskip("supervision")
    model, processor = (kind.from_pretrained(checkpoint) for kind in (AutoModelForObjectDetection, AutoImageProcessor))
    with torch.no_grad():
        outputs = model(**processor(photo, return_tensors="pt"))
    (results,) = processor.post_process_object_detection(outputs, THRESHOLD, [(photo.height, photo.width)])
    theirs = sv.Detections.from_transformers(results, model.config.id2label)
    assert theirs.class_id.tolist() == found.labels.tolist()
    assert theirs.data["class_name"].tolist() == found.names
    np.testing.assert_allclose(theirs.xyxy, found.boxes, atol=1e-3)
    np.testing.assert_allclose(theirs.confidence, found.scores, atol=1e-5)


def test_sahi_finds_what_we_find(detector, checkpoint, photo, found):
    pytest.importorskip("sahi")
    from sahi.predict import get_prediction

    from dino_detr.inference.sahi_model import SahiDetector

    for model in (
        SahiDetector(str(checkpoint), confidence_threshold=THRESHOLD, device="cpu"),
        SahiDetector(model=detector, confidence_threshold=THRESHOLD, device="cpu"),
    ):
        theirs = get_prediction(photo, model).object_prediction_list
        assert [one.category.name for one in theirs] == found.names
        assert [one.category.id for one in theirs] == found.labels.tolist()
        assert [one.score.value for one in theirs] == pytest.approx(found.scores.tolist(), abs=1e-6)
        boxes = [one.bbox.to_xyxy() for one in theirs]
        np.testing.assert_allclose(boxes, found.boxes, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_sahi_slices_as_we_cut(batch_size, detector, photo):
    """Its slices, given to us one by one, have the same detections at the same places."""
    pytest.importorskip("sahi")
    from sahi.predict import get_sliced_prediction

    from dino_detr.inference.sahi_model import SahiDetector

    model = SahiDetector(model=detector, confidence_threshold=THRESHOLD, device="cpu")
    side = {"slice_height": 40, "slice_width": 40, "overlap_height_ratio": 0, "overlap_width_ratio": 0}
    theirs = get_sliced_prediction(
        photo, model, **side, perform_standard_pred=False, postprocess_match_threshold=1, postprocess_type="NMS",
        postprocess_match_metric="IOU",
        verbose=0, batch_size=batch_size,
    )  # fmt: skip
    expected = []
    for y in (0, 24):
        for x in (0, 40, 56):
            (of_slice,) = detector(photo.crop((x, y, x + 40, y + 40)), threshold=THRESHOLD)
            moved = of_slice.boxes + torch.tensor([x, y, x, y])
            expected += [(name, *box) for name, box in zip(of_slice.names, moved.tolist())]
    actual = [(one.category.name, *one.bbox.to_xyxy()) for one in theirs.object_prediction_list]
    assert len(expected) > 20
    for some, others in ((actual, expected), (expected, actual)):  # sahi drops one of two that are the same
        for name, *box in some:
            assert min(np.abs(np.array(other[1:]) - box).max() for other in others if other[0] == name) < 1e-2


def test_torchmetrics_gives_our_average_precision(detector, photos):
    pytest.importorskip("torchmetrics")
    from torchmetrics.detection import MeanAveragePrecision

    from dino_detr.evaluation import CocoDetectionMetric

    detections = detector(photos, threshold=0)
    predictions = [{name: each[name] for name in ("boxes", "scores", "labels")} for each in detections]
    truth = []
    for each in detections:
        boxes = each.boxes[4:30:3].clone()
        boxes[:, 2] -= (boxes[:, 2] - boxes[:, 0]) * torch.linspace(0.03, 0.5, len(boxes))  # on no IoU threshold
        truth.append({"boxes": boxes, "labels": each.labels[4:30:3]})
    theirs = MeanAveragePrecision(backend="pycocotools")(predictions, truth)
    ours = CocoDetectionMetric()
    ours.add_batch(
        predictions=[{"image_id": number, **each} for number, each in enumerate(predictions)],
        references=[
            {"image_id": number, **each, "area": (each["boxes"][:, 2:] - each["boxes"][:, :2]).prod(1),
             "iscrowd": torch.zeros(len(each["labels"]))}
            for number, each in enumerate(truth)
        ],
    )  # fmt: skip
    figures = ours.compute()
    assert 0.02 < figures["AP"] < figures["AP50"] < 0.95
    for name, other in {"AP": "map", "AP50": "map_50", "AP75": "map_75"}.items():
        assert figures[name] == pytest.approx(theirs[other].item(), abs=1e-6)


def linear_layers(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Linear) for module in model.modules())


def same_objects(found, other) -> bool:
    """The same ones, but for the rounding of 8 bits."""
    pairs = zip(found.scores[:5].tolist(), other.scores[:5].tolist())
    return found.names[:3] == other.names[:3] and all(abs(one - two) < 0.05 for one, two in pairs)


@pytest.mark.slow
def test_torchao(detector, photo, found):
    torchao = pytest.importorskip("torchao")
    quantised = copy.deepcopy(detector)
    torchao.quantization.quantize_(quantised.model, torchao.quantization.Int8WeightOnlyConfig())
    kinds = {type(layer.weight.data).__name__ for layer in quantised.model.modules() if isinstance(layer, nn.Linear)}
    assert kinds == {"Int8Tensor"} or kinds == {"AffineQuantizedTensor"}
    (theirs,) = quantised(photo, threshold=THRESHOLD)
    assert same_objects(found, theirs) and not torch.equal(theirs.scores[:5], found.scores[:5])


@pytest.mark.slow
def test_quanto(detector, photo, found):
    quanto = pytest.importorskip("optimum.quanto")
    quantised = copy.deepcopy(detector)
    before = linear_layers(quantised.model)
    quanto.quantize(quantised.model, weights=quanto.qint8)
    quanto.freeze(quantised.model)
    assert sum(isinstance(module, quanto.QLinear) for module in quantised.model.modules()) == before
    (theirs,) = quantised(photo, threshold=THRESHOLD)
    assert same_objects(found, theirs) and not torch.equal(theirs.scores[:5], found.scores[:5])


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "torch.save"])
def test_a_model_and_a_detector_can_be_copied(way, detector, photo, found):
    def round_trip(value):
        if way == "pickle":
            return pickle.loads(pickle.dumps(value))
        if way == "deepcopy":
            return copy.deepcopy(value)
        file = io.BytesIO()
        torch.save(value, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    images = random_images(1, 3, 64, 96)
    with torch.no_grad():
        model = round_trip(detector.model)
        assert torch.equal(model(images).logits, detector.model(images).logits)
    (theirs,) = round_trip(detector)(photo, threshold=THRESHOLD)
    assert list(theirs) == list(found)
    state = round_trip(detector.model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in detector.model.state_dict().items())


@pytest.mark.slow
def test_fiftyone(detector, photos):
    fiftyone = pytest.importorskip("fiftyone")
    for each in detector(photos, threshold=THRESHOLD):
        height, width = each.size
        shares = [(x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height) for x1, y1, x2, y2 in
                  each.boxes.tolist()]  # fmt: skip
        rows = [
            fiftyone.Detection(label=one.name, bounding_box=box, confidence=one.score) for one, box in zip(each, shares)
        ]
        sample = fiftyone.Sample(filepath=each.source.name, found=fiftyone.Detections(detections=rows))
        assert [row.label for row in sample.found.detections] == each.names
