"""Promise 34: exports give the detector's numbers, whatever the batch and size; a damaged one is not written."""

import json
import subprocess
import sys
from importlib.util import find_spec

import onnx
import pytest
import torch
from helpers.fake_hub import REPOSITORY
from helpers.launching import ENVIRONMENT
from helpers.stranger import STRANGER
from helpers.tiny import random_images, tiny_detector
from huggingface_hub import ModelCard

from dino_detr import DinoDetrImageProcessor, deformable_attention
from dino_detr.cli import main
from dino_detr.data import load_detection_dataset
from dino_detr.deformable_attention import gathered_sampling, plain_sampling
from dino_detr.export import ExportedDetector, ExportFailed, ExportOptions, export_detector, runtime
from dino_detr.hub import write_card
from dino_detr.inference import Detector

FORMATS = ("torch", "onnx", "openvino")


@pytest.fixture(scope="module")
def images():
    rows = load_detection_dataset("digits", "val")
    return [rows[index]["image"] for index in range(4)]


def test_gathered_sampling_is_the_definition():
    torch.manual_seed(0)
    shapes = [(5, 7), (3, 2), (1, 1)]
    value = torch.randn(2, sum(h * w for h, w in shapes), 3, 4, dtype=torch.float64)
    locations = torch.rand(2, 9, 3, 3, 4, 2, dtype=torch.float64) * 2 - 0.5  # half of them outside
    weights = torch.rand(2, 9, 3, 3, 4, dtype=torch.float64)
    ours = gathered_sampling(value, shapes, locations, weights)
    torch.testing.assert_close(ours, plain_sampling(value, shapes, locations, weights), rtol=0, atol=1e-12)


def agrees(checkpoint, export, sizes) -> None:
    """Batches of these sizes, the last image of each padded by half, to float32 rounding."""
    detector, exported = Detector(checkpoint).model, ExportedDetector(export)
    for batch_size, height, width in sizes:
        pixels = random_images(batch_size, 3, height, width, seed=height)
        mask = torch.ones(batch_size, height, width, dtype=torch.int64)
        mask[-1, height // 2 :] = 0
        with torch.no_grad():
            ours = detector(pixels, mask)
        theirs = exported(pixels, mask)
        torch.testing.assert_close(theirs.logits, ours.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(theirs.pred_boxes, ours.pred_boxes, rtol=0, atol=1e-4)


USE = """
import re
from pathlib import Path
(snippet,) = re.findall("```python\\n(.*?)```", Path("README.md").read_text(), re.S)
exec(snippet.replace("> 0.3", "> 0.0"))
assert "dino_detr" not in sys.modules
np.savez("found.npz", scores=scores, labels=labels, boxes=boxes)
"""


def run_as_the_card_says(folder, image) -> dict:
    """Scores, labels and boxes, in a process that has no dino_detr."""
    import numpy as np

    write_card(folder)
    image.save(folder / "photo.jpg", quality=100)
    (folder / "script.py").write_text("import sys\n" + STRANGER + USE)
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(np.load(folder / "found.npz"))


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_of_one_size(format, checkpoint, images, tmp_path, capsys, hub):
    """It takes any batch, pads, says what it is, is pushed, and runs without this package."""
    folder = tmp_path / "export"
    whole = ["--with_preprocessing", "--with_postprocessing"] if format == "onnx" else []
    main(["export", str(checkpoint), "--format", format, "--output", str(folder), "--image_size", "144", "192", *whole])
    assert "verified in float32 on 9 images in 4 batches: 100.0% of the best" in capsys.readouterr().out
    facts = json.loads((folder / "verification.json").read_text())
    assert facts["format"] == format and facts["verification"]["logits"] < 1e-3
    if not whole:
        agrees(checkpoint, folder, [(1, 144, 192), (3, 144, 192)])
    if format == "onnx":
        operators = {
            node.op_type for node in onnx.load(next(folder.glob("*.onnx")), load_external_data=False).graph.node
        }
        assert "GridSample" not in operators and not operators & {"If", "Loop", "Scan"}

    exported = Detector(folder)
    expected = Detector(checkpoint)
    expected.processor.size = exported.processor.size
    for image in images:  # as large as the graph takes: nothing is padded then
        image = image.resize((192, 144))
        (ours,), (theirs,) = expected([image], threshold=0.0), exported([image], threshold=0.0)
        torch.testing.assert_close(theirs["scores"], ours["scores"], rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="takes images of 144x192, not 200x100"):
        exported.model(torch.zeros(1, 3, 200, 100))

    main(["push", str(folder), REPOSITORY, "--license", "mit"])
    pushed = hub.repositories[REPOSITORY].commits[-1].files
    graph = {path.name for path in folder.iterdir() if path.suffix in (".pt2", ".onnx", ".data", ".xml", ".bin")}
    assert graph and graph | {"config.json", "export.json", "verification.json", "README.md"} <= pushed.keys()
    card = ModelCard(pushed["README.md"].decode())
    assert card.data.license == "mit" and f'snapshot_download("{REPOSITORY}")' in card.text
    assert "9 images in 4 batches: 100.0% of the best" in card.text and "| precision | float32 |" in card.text
    if format == "torch":
        with pytest.raises(ValueError, match=f"a torch export is a pickle.*hf download {REPOSITORY} --local-dir"):
            Detector(REPOSITORY)
    else:
        (there,) = Detector(REPOSITORY)([image], threshold=0.0)
        assert torch.equal(there["scores"], theirs["scores"]) and torch.equal(there["boxes"], theirs["boxes"])

    found = run_as_the_card_says(folder, image)
    best = found["scores"].argmax()
    assert found["scores"][best] == pytest.approx(ours["scores"][0].item(), abs=0.02)
    assert found["boxes"][best] == pytest.approx(ours["boxes"][0].numpy(), abs=4)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_of_any_size(format, checkpoint, images, tmp_path):
    verification, measurement = export_detector(checkpoint, tmp_path / "export", ExportOptions(format))
    assert verification.is_good and len({tuple(size) for size in verification.sizes}) > 2 and measurement is None
    agrees(checkpoint, tmp_path / "export", [(1, 160, 160), (3, 200, 333), (2, 410, 150), (1, 128, 640)])
    assert ExportedDetector(tmp_path / "export")(torch.zeros(1, 3, 64, 200)).logits.isfinite().all()
    found = Detector(tmp_path / "export")(images, threshold=0.0)
    for ours, theirs in zip(Detector(checkpoint)(images, threshold=0.0), found):
        torch.testing.assert_close(theirs["scores"], ours["scores"], rtol=0, atol=1e-3)
    run_as_the_card_says(tmp_path / "export", images[0])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet", "swin", "vitdet", "dinov3_vit", "timm_backbone"])
def test_other_backbones(backbone, tmp_path):
    """Those that attend in windows take one size only."""
    tiny_detector(backbone).save_pretrained(tmp_path / "checkpoint")
    DinoDetrImageProcessor(size={"shortest_edge": 160, "longest_edge": 256}).save_pretrained(tmp_path / "checkpoint")
    if backbone in ("swin", "vitdet"):
        with pytest.raises(ValueError, match=r"attends in windows.*--image_size HEIGHT WIDTH"):
            export_detector(tmp_path / "checkpoint", tmp_path / "export", ExportOptions("openvino"))
    export_detector(tmp_path / "checkpoint", tmp_path / "export", ExportOptions("openvino", (160, 256)))
    agrees(tmp_path / "checkpoint", tmp_path / "export", [(1, 160, 256), (3, 160, 256)])


def test_a_damaged_graph_is_refused_by_the_part_where_it_begins(checkpoint, tmp_path, monkeypatch):
    plain = deformable_attention.plain_sampling

    def damaged(*arguments):
        return (3 if torch.compiler.is_exporting() else 1) * plain(*arguments)

    monkeypatch.setattr(deformable_attention, "plain_sampling", damaged)
    with pytest.raises(ExportFailed, match=r"They part in encoder\.layers\.0.*Nothing was written"):
        export_detector(checkpoint, tmp_path / "export", ExportOptions("torch", (144, 192)))
    assert not list(tmp_path.iterdir())


def test_bad_input_is_a_sentence_and_nothing_is_written(checkpoint, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.setattr(runtime, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    for options, said in [
        (["--format", "tflite"], "format 'tflite' is none of torch, onnx, openvino"),
        (["--format", "onnx"], "onnx needs onnxruntime: pip install 'dino-detr[export]'"),
        (["--output", str(tmp_path / "full")], "not an empty folder"),
        (["--image_size", "64", "500"], "image_size 64 500: at least 128"),
        (["--sampling", "triton"], "'triton' is none of plain, gather"),
        (["--quantize", "int4"], "quantize 'int4': torch has bf16, fp16"),
        (["--quantize", "bf16"], "--quantize bf16 needs --dataset"),
        (["--dataset", "digits", "--max_images", "0"], "--max_images 0: at least 1"),
    ]:
        arguments = ["--format", "torch", "--output", str(tmp_path / "export"), *options]
        with pytest.raises(SystemExit) as end:
            main(["export", str(checkpoint), *arguments])
        assert said in str(end.value) and "\n" not in str(end.value)
    for source, said in [
        ("nobody/nothing", "neither a checkpoint folder nor found on the Hub"),
        (str(tmp_path / "other"), "a checkpoint of bert, not a detector"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(["export", source, "--format", "torch", "--output", str(tmp_path / "export")])
        assert said in str(end.value) and "\n" not in str(end.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "other"]
