"""Initial weights: none is left out, and they are what the papers say."""

import math

import pytest
import torch
from helpers.tiny import (
    TRANSFORMERS_BACKBONES,
    tiny_config,
    tiny_detector,
)

from dino_detr import DinoDetrForObjectDetection


@pytest.mark.parametrize("kind", TRANSFORMERS_BACKBONES)
def test_initialisation_fills_every_parameter_and_buffer(kind):
    """As it must where a model is built on the meta device."""
    torch.manual_seed(0)
    model = DinoDetrForObjectDetection(tiny_config(kind, freeze_backbone=False))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else -(2**30))
            tensor._is_hf_initialized = False
        for module in model.modules():
            module._is_hf_initialized = False
        model.init_weights()
    left = [name for name, tensor in tensors.items() if tensor.isnan().any() or (tensor == -(2**30)).any()]
    assert not left
    check_initial_facts(model)


def test_a_checkpoint_that_lacks_weights_starts_them_as_a_new_model_does(tmp_path):
    """Through transformers' meta device; what is there is loaded."""
    full = tiny_detector()
    kept = {name: value for name, value in full.state_dict().items() if name.startswith("model.backbone.")}
    full.save_pretrained(tmp_path, state_dict=dict(kept))
    model, loading = DinoDetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert len(loading["missing_keys"]) == len(full.state_dict()) - len(kept) and not loading["unexpected_keys"]
    check_initial_facts(model)
    for name, value in kept.items():
        assert torch.equal(model.state_dict()[name], value), name


def check_initial_facts(model: DinoDetrForObjectDetection) -> None:
    detector = model.model
    for classes, boxes in zip(detector.class_embed, detector.bbox_embed):
        torch.testing.assert_close(classes.bias, torch.full_like(classes.bias, -math.log(99)))  # -4.595
        assert not boxes.layers[-1].weight.any() and not boxes.layers[-1].bias.any()
    for heads in (detector.class_embed, detector.bbox_embed):
        assert len(heads) == model.config.decoder_layers + 1
        first = [*heads[0].parameters()]
        assert first[0].std() > 0.01
        for head in heads[1:]:
            for parameter, other in zip(head.parameters(), first):
                assert torch.equal(parameter, other) and parameter.data_ptr() != other.data_ptr()
    attention = detector.encoder.layers[0].self_attn
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
    # Deformable DETR's start: head k looks in direction k of the circle, on its square; point i is i + 1 cells away
    offsets = attention.sampling_offsets.bias.view(attention.num_heads, attention.num_levels, attention.num_points, 2)
    for head in range(attention.num_heads):
        angle = 2 * math.pi * head / attention.num_heads
        direction = torch.tensor([math.cos(angle), math.sin(angle)])
        direction /= direction.abs().max()
        for point in range(attention.num_points):
            expected = (direction * (point + 1)).expand(attention.num_levels, 2)
            torch.testing.assert_close(offsets[head, :, point], expected, atol=1e-5, rtol=1e-5)
    for xavier in (attention.value_proj, detector.encoder.layers[0].ffn.fc1, detector.decoder.layers[0].ffn.fc2):
        bound = math.sqrt(6 / sum(xavier.weight.shape))
        assert 0.9 * bound < xavier.weight.abs().max() <= bound
    assert 0.8 < detector.level_embed.std() < 1.2
