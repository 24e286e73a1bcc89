"""`torch.compile` of the layers changes no number, on a graph compiler that needs no C compiler."""

import sys

import pytest
import torch
from helpers.launching import lines, run
from helpers.tiny import random_images, random_labels, tiny_config, tiny_detector

from dino_detr.denoising import draw_denoising_queries
from dino_detr.targets import Targets
from dino_detr.training.compilation import compile_layers


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "unfrozen"])
def test_gradients(frozen):
    images, labels = random_images(2, 3, 64, 96), random_labels(3, 1)
    noise = draw_denoising_queries(Targets.from_labels(labels, 2, torch.device("cpu")), tiny_config())
    gradients, names = [], []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = tiny_detector(freeze_backbone=frozen).train()
        if compiled:
            compile_layers(model, backend="aot_eager")
        model(images, labels=labels, denoising_queries=noise).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        names.append(set(model.state_dict()))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3  # of the backbone, the encoder and the decoder
    assert names[0] == names[1]
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_as_a_training_option(recipe, tmp_path):
    options = ["--max_steps", "2", "--image_sizes", "64", "--augmentation", "none", "--output_dir"]
    run(sys.executable, "train.py", recipe, *options, tmp_path / "plain")
    compiled = ["--torch_compile", "--torch_compile_backend", "aot_eager"]
    run(sys.executable, "train.py", recipe, *options, tmp_path / "compiled", *compiled)
    plain, compiled = (lines(tmp_path / name / "metrics.jsonl") for name in ("plain", "compiled"))
    assert [line["loss"] for line in compiled] == pytest.approx([line["loss"] for line in plain], rel=1e-4)
    assert (tmp_path / "compiled" / "model.safetensors").stat().st_size == (
        tmp_path / "plain" / "model.safetensors"
    ).stat().st_size


@pytest.mark.slow
def test_one_compilation_for_all_sizes():
    """And none is given up: torch counts those of all kinds of layers together, up to a limit."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    model = tiny_detector().train()
    compile_layers(model, backend="aot_eager")
    graphs = set()
    for height, width in ((256, 320), (320, 256), (256, 384), (320, 320)):
        model(random_images(2, 3, height, width), labels=random_labels(3, 1)).loss.backward()
        graphs.add(counters["stats"]["unique_graphs"])
    assert len(graphs) == 1
    model.eval()
    with torch.no_grad():
        for images in (1, 2):
            model(random_images(images, 3, 256, 320))
    assert counters["stats"]["unique_graphs"] > 8  # torch's own limit
    assert counters["frames"]["ok"] == counters["frames"]["total"]
