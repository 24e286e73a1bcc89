"""Tools of others on our models: adapters, quantisation, tracing, offloading, pipelines."""

import builtins
import copy
import inspect
import re

import accelerate
import pytest
import torch
from helpers.tiny import ALL_BACKBONES, random_images, random_labels, tiny_config, tiny_detector
from PIL import Image
from torch import nn
from transformers import AutoModelForObjectDetection, PreTrainedModel, pipeline
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection, DinoDetrImageProcessor
from dino_detr import cpu_linear as products

IMAGES = random_images(2, 3, 64, 96)
LABELS = random_labels(3, 1)


def linear_layers(model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


# -- layers that are exchanged


@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_every_linear_layer_is_exactly_pytorchs(kind):
    model = tiny_detector(kind)
    assert len(linear_layers(model)) >= (49 if kind != "resnet" else 41)
    assert {type(model.get_submodule(name)) for name in linear_layers(model)} == {nn.Linear}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["dinov2", "timm_backbone"])
def test_dynamic_quantisation_changes_all_layers_and_uses_them(kind):
    model = tiny_detector(kind)
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    layers = [module for module in quantised.modules() if type(module) is torch.ao.nn.quantized.dynamic.Linear]
    assert len(layers) == len(linear_layers(model))
    used = []
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: used.append(module))
    with torch.no_grad():
        outputs, expected = (detector(IMAGES, labels=LABELS) for detector in (quantised, model))
    assert set(used) == set(layers)
    difference = (outputs.encoder_last_hidden_state - expected.encoder_last_hidden_state).abs().mean()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "recomputed", "recomputed, reentrant"])
@pytest.mark.parametrize("kind", ["dinov2", "timm_backbone", "swin"])
def test_adapters_in_a_frozen_backbone_are_trained_saved_and_merged(kind, checkpointing, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    monkeypatch.setattr(products, "_LARGE", 1)
    model = tiny_detector(kind)
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules="all-linear")).train()
    if checkpointing is not None:
        adapted.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(linear_layers(model))  # of each layer A and B
    optimizer = torch.optim.SGD(trained.values(), 1e-2)
    for _ in range(2):  # B is zero at first, and so A's gradient
        optimizer.zero_grad()
        adapted(pixel_values=IMAGES, labels=LABELS).loss.backward()
        assert [name for name, p in trained.items() if p.grad is None] == []
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for name, p in trained.items() if "backbone" in name)

    adapted.eval().save_pretrained(tmp_path / "adapters")
    with torch.no_grad():
        expected = adapted(pixel_values=IMAGES)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapters").eval()
        assert torch.equal(loaded(pixel_values=IMAGES).logits, expected.logits)
        adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
        merged = DinoDetrForObjectDetection.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(merged(IMAGES).logits, expected.logits, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(merged(IMAGES).logits, model(IMAGES).logits, atol=1e-3)


@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_the_backbone_has_a_graph_exactly_when_something_in_it_wants_a_gradient(kind):
    backbone = tiny_detector(kind).model.backbone.train()
    assert not backbone.model.training and not backbone(IMAGES)[0].requires_grad
    assert backbone(IMAGES.clone().requires_grad_())[0].requires_grad  # as of the image, to see what it looks at
    list(backbone.model.parameters())[5].requires_grad_()
    assert backbone(IMAGES)[0].requires_grad and not backbone.model.training
    with torch.no_grad():
        assert not backbone(IMAGES)[0].requires_grad
    unfrozen = tiny_detector(kind, freeze_backbone=False).model.backbone
    assert unfrozen(IMAGES)[0].requires_grad
    assert not unfrozen.requires_grad_(False)(IMAGES)[0].requires_grad


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit"])
def test_a_frozen_backbone_with_something_to_train_is_checkpointed(kind, use_reentrant):
    """Its blocks are run once more, in eval mode as before, and the gradients are the same."""
    results = []
    for checkpointing in (False, True):
        model = tiny_detector(kind).train()
        blocks = [module for module in model.model.backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
        wanted = list(blocks[-1].parameters())
        for parameter in wanted:
            parameter.requires_grad_()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        modes = []
        blocks[-1].norm1.register_forward_hook(lambda module, *_, modes=modes: modes.append(module.training))
        torch.manual_seed(0)
        model(IMAGES, labels=LABELS).loss.backward()
        assert modes == [False] * (1 + checkpointing)
        assert not any(module.training for module in model.model.backbone.model.modules())
        results.append([parameter.grad for parameter in wanted])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_an_unfrozen_backbone_is_the_same_with_its_fast_products(kind, monkeypatch):
    """... and when layers are computed again."""
    results = []
    for large, checkpointing in ((2**62, False), (1, False), (1, True)):
        monkeypatch.setattr(products, "_LARGE", large)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        model = tiny_detector(kind, freeze_backbone=False).eval()  # DINOv3's positions are random in training
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(IMAGES, labels=LABELS).loss.backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for other in results[1:]:
        assert set(other) == set(results[0])
        for name, gradient in results[0].items():
            torch.testing.assert_close(other[name], gradient, atol=2e-3, rtol=2e-3, msg=name)


# -- other ways to run


class Outputs(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        outputs = self.model(pixel_values=pixel_values)
        return outputs.logits, outputs.pred_boxes


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("sampling", ["auto", "gather", "plain"])
def test_a_model_can_be_traced_whatever_its_sampling(sampling):
    model = Outputs(tiny_detector())
    model.model.set_deformable_sampling(sampling)
    with torch.no_grad():
        traced = torch.jit.trace(model, IMAGES)
        others = random_images(*IMAGES.shape, seed=1)
        for found, expected in zip(traced(others), model(others)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_model_can_be_exported():
    model = Outputs(tiny_detector())
    with torch.no_grad():
        exported = torch.export.export(model, (IMAGES,)).module()
        others = random_images(*IMAGES.shape, seed=1)
        for found, expected in zip(exported(others), model(others)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", ["cpu", "disk", "dispatched"])
@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_weights_can_be_offloaded(kind, way, tmp_path):
    model = tiny_detector(kind)
    expected = model(IMAGES).logits
    if way == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    elif way == "disk":
        accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    else:
        parts = ["level_embed", *(name for name, _ in model.model.named_children())]
        places = {f"model.{name}": ("cpu", "disk")[index % 2] for index, name in enumerate(parts)}
        accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(IMAGES).logits, expected)


# -- loading


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_detector().save_pretrained(folder)
    DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


LOADING = [
    {"device_map": "auto"},
    {"device_map": {"": "cpu"}, "max_memory": {"cpu": "2GB"}},
    {"low_cpu_mem_usage": True, "offload_buffers": True},
    {"quantization_config": None, "use_safetensors": True},
    {"dtype": torch.bfloat16, "attn_implementation": "eager"},
    {"ignore_mismatched_sizes": True, "weights_only": True, "key_mapping": None},
]


@pytest.mark.parametrize("options", LOADING, ids=str)
def test_a_pipeline_takes_options_of_loading_and_asks_nothing(options, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked at the terminal"))
    options = options | ({"offload_folder": str(tmp_path)} if "device_map" in options else {})
    picture = Image.new("RGB", (96, 64), "red")
    found = pipeline("object-detection", model=str(checkpoint), model_kwargs=dict(options))(picture, threshold=0.0)
    assert {"score", "label", "box"} == set(found[0])
    assert AutoModelForObjectDetection.from_pretrained(checkpoint, **options).config.num_queries == 20
    if "device_map" in options:
        pipeline("object-detection", model=str(checkpoint), device_map=options["device_map"])


def test_the_configuration_stays_strict_beside_options_of_loading(checkpoint):
    for load in (
        lambda **options: DinoDetrConfig.from_pretrained(checkpoint, **options),
        lambda **options: pipeline("object-detection", model=str(checkpoint), model_kwargs=options),
    ):
        with pytest.raises(ValueError, match="num_querys"):
            load(device_map="cpu", num_querys=3)
    assert DinoDetrConfig.from_pretrained(checkpoint, device_map="cpu", num_queries=7).num_queries == 7
    with pytest.raises(ValueError, match="device_map"):
        tiny_config(device_map="cpu")


def test_a_quantised_checkpoint_says_so_when_it_is_loaded():
    said = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert DinoDetrConfig.from_dict(tiny_config().to_dict() | {"quantization_config": said}).quantization_config == said


def test_every_option_of_loading_is_known():
    """All that the installed transformers reads from the keywords of `from_pretrained`."""
    for function in (PreTrainedModel.from_pretrained, _BaseAutoModelClass.from_pretrained):
        read = set(re.findall(r'kwargs\.(?:pop|get)\("(\w+)"', inspect.getsource(function)))
        named = {name for name, p in inspect.signature(function).parameters.items() if p.kind in (p.KEYWORD_ONLY,)}
        assert len(read) > 5
        DinoDetrConfig.from_dict(tiny_config().to_dict(), **dict.fromkeys((read | named) - {"return_unused_kwargs"}))
