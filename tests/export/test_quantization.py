"""Exports in fewer bits: 8 of them where they should be, AP measured, refused where it drops."""

import json

import openvino
import pytest
import torch

from dino_detr.cli import main
from dino_detr.export import ExportFailed, ExportOptions, export_detector
from dino_detr.export.runtime import ExportedDetector
from dino_detr.inference import Detector


@pytest.mark.slow
def test_weights_of_16_bits_are_measured(checkpoint, tmp_path, capsys):
    arguments = ["--format", "torch", "--quantize", "bf16", "--dataset", "digits", "--max_images", "2"]
    arguments += ["--image_size", "144", "192", "--max_ap_drop", "1"]
    main(["export", str(checkpoint), "--output", str(tmp_path / "export"), *arguments])
    assert "bf16: AP 0.0" in capsys.readouterr().out
    facts = json.loads((tmp_path / "export" / "verification.json").read_text())
    assert facts["quantize"] == "bf16" and facts["measurement"]["dataset"] == "digits"
    assert facts["measurement"]["images"] == 2 and len(facts["measurement"]["ap"]) == 2
    assert ExportedDetector(tmp_path / "export").dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_is_of_the_backbone_and_encoder_alone(format, checkpoint, tmp_path):
    options = ExportOptions(format, (144, 192), quantize="int8")
    export_detector(checkpoint, tmp_path / "export", options, "digits", max_images=2, max_ap_drop=1.0)
    model = Detector(checkpoint).model.model
    linears = [
        part
        for name in ("backbone", "pyramid", "neck", "encoder")
        for part in getattr(model, name).modules()
        if hasattr(part, "weight") and part.weight.dim() > 1
    ]
    file = next((tmp_path / "export").glob("*.onnx" if format == "onnx" else "*.xml"))
    if format == "openvino":
        operators = openvino.Core().read_model(file).get_ordered_ops()
        eight = [
            op for op in operators if op.get_type_name() == "Constant" and op.get_element_type().to_string() == "i8"
        ]
        count = len([op for op in eight if len(op.get_output_shape(0)) > 1 or op.get_output_shape(0)[0] > 64])
    else:
        import onnx

        graph = onnx.load(file).graph
        count = len([t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1])
    assert 0.8 * len(linears) <= count <= len(linears)
    assert ExportedDetector(tmp_path / "export").facts["quantize"] == "int8"


@pytest.mark.slow
def test_what_loses_ap_is_refused(checkpoint, tmp_path):
    with pytest.raises(ExportFailed, match=r"with bf16, .*AP drops from .* more than --max_ap_drop -1"):
        options = ExportOptions("torch", (144, 192), quantize="bf16")
        export_detector(checkpoint, tmp_path / "export", options, "digits", max_images=2, max_ap_drop=-1.0)
    assert not list(tmp_path.iterdir())
