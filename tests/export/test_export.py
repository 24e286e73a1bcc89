"""Exports give the detector's numbers, whatever the batch and the size; a damaged one is refused, by the part that is."""

import json

import pytest
import torch
from helpers.tiny import random_images, tiny_detector

from dino_detr import DinoDetrImageProcessor, deformable_attention
from dino_detr.data import load_detection_dataset
from dino_detr.deformable_attention import gathered_sampling, plain_sampling
from dino_detr.export import ExportedDetector, ExportFailed, export_detector
from dino_detr.inference import Detector

SIZE = {"shortest_edge": 160, "longest_edge": 256}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_detector(pyramid_channels=64).save_pretrained(folder)
    DinoDetrImageProcessor(size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images():
    rows = load_detection_dataset("digits", "val")
    return [rows[index]["image"] for index in range(8)]


def test_gathered_sampling_is_the_definition():
    torch.manual_seed(0)
    shapes = [(5, 7), (3, 2), (1, 1)]
    value = torch.randn(2, sum(h * w for h, w in shapes), 3, 4, dtype=torch.float64)
    locations = torch.rand(2, 9, 3, 3, 4, 2, dtype=torch.float64) * 2 - 0.5  # half of them outside
    weights = torch.rand(2, 9, 3, 3, 4, dtype=torch.float64)
    ours = gathered_sampling(value, shapes, locations, weights)
    torch.testing.assert_close(ours, plain_sampling(value, shapes, locations, weights), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "format", ["torch", pytest.param("onnx", marks=pytest.mark.slow), pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_an_export_of_any_size_is_a_detector(format, checkpoint, images, tmp_path):
    if format != "torch":
        pytest.importorskip({"onnx": "onnxruntime"}.get(format, format))
    verification = export_detector(checkpoint, tmp_path / "export", format, images)
    assert verification.is_good and verification.images == 8 and len({tuple(size) for size in verification.sizes}) > 2
    said = json.loads((tmp_path / "export" / "verification.json").read_text())
    assert said["format"] == format and said["verification"]["detections"] == verification.detections

    detector, exported = Detector(checkpoint).model, ExportedDetector(tmp_path / "export")
    for batch_size, height, width in [(1, 160, 160), (3, 200, 333), (2, 410, 150)]:
        pixels = random_images(batch_size, 3, height, width, seed=height)
        mask = torch.ones(batch_size, height, width, dtype=torch.int64)
        mask[-1, height // 2 :] = 0
        with torch.no_grad():
            ours = detector(pixels, mask)
        theirs = exported(pixels, mask)
        torch.testing.assert_close(theirs.logits, ours.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(theirs.pred_boxes, ours.pred_boxes, rtol=0, atol=1e-4)

    found = Detector(tmp_path / "export")(images[:3], threshold=0.0)
    for ours, theirs in zip(Detector(checkpoint)(images[:3], threshold=0.0), found):
        torch.testing.assert_close(theirs["scores"], ours["scores"], rtol=0, atol=1e-4)


def test_a_damaged_graph_is_refused_by_the_part_where_it_begins(checkpoint, images, tmp_path, monkeypatch):
    plain = deformable_attention.plain_sampling
    calls = []

    def damaged(*arguments):
        sampled = plain(*arguments)
        calls.append(torch.compiler.is_exporting())
        return 3 * sampled if torch.compiler.is_exporting() else sampled

    monkeypatch.setattr(deformable_attention, "plain_sampling", damaged)
    with pytest.raises(ExportFailed, match=r"They part in encoder\.layers\.0.*Nothing was written"):
        export_detector(checkpoint, tmp_path / "export", "torch", images, image_size=(160, 256))
    assert any(calls) and not list(tmp_path.iterdir())


def test_bad_input_is_a_sentence_and_nothing_is_written(checkpoint, images, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for arguments, said in [
        ({"format": "tflite"}, "'tflite' is none of torch, onnx, openvino"),
        ({"output": tmp_path / "full"}, "not an empty folder"),
        ({"image_size": (64, 500)}, "at least 128"),
        ({"sampling": "triton"}, "'triton' is none of plain, gather"),
    ]:
        arguments = {"source": checkpoint, "output": tmp_path / "export", "format": "torch"} | arguments
        with pytest.raises((ValueError, FileExistsError), match=said):
            export_detector(images=images, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
