"""The shapes in the drawing of docs/explanation/model.md are those of the detector that it names."""

import re

import torch
from helpers.launching import ROOT

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection


def test_the_drawing_shows_the_shapes_of_the_default_detector():
    drawing = (ROOT / "docs" / "images" / "model.svg").read_text(encoding="utf-8")
    shown = set(re.findall(r"\[(?:B|6, B), [^\]]+\]", drawing))
    with torch.device("meta"):
        model = DinoDetrForObjectDetection(DinoDetrConfig()).eval()
    model = model.to_empty(device="cpu")
    for parameter in [*model.parameters(), *model.buffers()]:
        torch.nn.init.constant_(parameter, 0.01)
    seen = {}

    def record(name, several=False):
        def hook(module, inputs, output):
            for tensor in output if several else [output]:
                seen.setdefault(name, []).append(["B", *tensor.shape[1:]])

        return hook

    detector, inner = model.model, []
    detector.backbone.register_forward_hook(record("backbone", several=True))
    detector.pyramid.register_forward_hook(record("pyramid", several=True))
    detector.query_selection.register_forward_hook(record("selection", several=True))
    detector.register_forward_hook(lambda module, inputs, output: inner.append(output))
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, 640, 640))
    shapes = [shape for shapes in seen.values() for shape in shapes]
    shapes += [["B", *inner[0].encoder_last_hidden_state.shape[1:]], ["B", 3, 640, 640]]
    assert {f"[{', '.join(map(str, shape))}]" for shape in shapes} <= shown
    layers, _, queries, width = inner[0].hidden_states_per_layer.shape
    assert f"[{layers}, B, P + {queries}, {width}]" in shown
    assert f"[B, {outputs.logits.shape[1]}, {outputs.logits.shape[2]} | {outputs.pred_boxes.shape[2]}]" in shown
    assert len(shown) >= 12
