"""Deformable attention against transformers' own, against its derivative, and against bilinear weights by hand."""

import pytest
import torch
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrEncoder,
    DeformableDetrMultiscaleDeformableAttention,
)

from dino_detr.deformable_attention import MultiScaleDeformableAttention, deformable_sampling

SHAPES = [(6, 9), (3, 5), (1, 2)]
TOKENS = sum(h * w for h, w in SHAPES)
HEADS, POINTS, WIDTH = 4, 3, 32


def deformable_detr_config():
    return DeformableDetrConfig(
        d_model=WIDTH,
        num_feature_levels=len(SHAPES),
        encoder_layers=1,
        encoder_attention_heads=HEADS,
        encoder_n_points=POINTS,
        disable_custom_kernels=True,
    )


@pytest.mark.parametrize("masked", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("coordinates", [2, 4], ids=["points", "boxes"])
def test_equals_transformers_forward_and_backward(coordinates, masked):
    torch.manual_seed(0)
    theirs = DeformableDetrMultiscaleDeformableAttention(deformable_detr_config(), HEADS, POINTS)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = MultiScaleDeformableAttention(WIDTH, HEADS, len(SHAPES), POINTS)
    ours.load_state_dict(theirs.state_dict())
    queries, memory = torch.randn(2, 7, WIDTH), torch.randn(2, TOKENS, WIDTH)
    references = torch.rand(2, 7, len(SHAPES), coordinates)
    padding = torch.rand(2, TOKENS) < 0.3 if masked else None

    results = []
    for attention in (ours, theirs):
        inputs = [tensor.clone().requires_grad_() for tensor in (queries, memory, references)]
        if attention is ours:
            output = attention(*inputs, SHAPES, padding)
        else:
            output, _ = attention(
                inputs[0],
                attention_mask=None if padding is None else ~padding,  # there True means: not padding
                encoder_hidden_states=inputs[1],
                reference_points=inputs[2],
                spatial_shapes=torch.tensor(SHAPES),
                spatial_shapes_list=SHAPES,
                level_start_index=None,
            )
        loss = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
        results.append([output, *torch.autograd.grad(loss, [*inputs, *attention.parameters()])])
    names = ["output", "queries", "memory", "references", *(name for name, _ in ours.named_parameters())]
    for name, mine, other in zip(names, *results):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_sampling_has_the_gradient_it_should():
    torch.manual_seed(0)
    shapes = [(3, 4), (2, 1)]
    value = torch.randn(2, 14, 2, 3, dtype=torch.float64, requires_grad=True)
    locations = (torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()  # some are outside
    weights = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: deformable_sampling(inputs[0], shapes, *inputs[1:]), (value, locations, weights)
    )


def test_samples_are_bilinear_and_zero_outside_the_map():
    """A cell's centre is the cell, the map's edge is half of its border cell, a corner a quarter, beyond is nothing."""
    height, width = 3, 4
    value = torch.arange(1.0, 13.0).view(1, height * width, 1, 1)
    cells = value.view(height, width)
    expected = {
        (2.5 / width, 1.5 / height): cells[1, 2],
        (2.0 / width, 1.5 / height): (cells[1, 1] + cells[1, 2]) / 2,
        (0.0, 0.5 / height): cells[0, 0] / 2,
        (1.0, 1.0): cells[2, 3] / 4,
        (-0.5 / width, 0.5): 0,
        (0.5, 1 + 0.5 / height): 0,
        (7.0, -7.0): 0,
    }
    locations = torch.tensor(list(expected)).view(1, -1, 1, 1, 1, 2)
    samples = deformable_sampling(value, [(height, width)], locations, torch.ones(locations.shape[:-1]))
    torch.testing.assert_close(samples.flatten(), torch.tensor([float(sample) for sample in expected.values()]))


def test_heads_first_look_where_deformable_detr_does():
    theirs = DeformableDetrEncoder(deformable_detr_config()).layers[0].self_attn
    ours = MultiScaleDeformableAttention(WIDTH, HEADS, len(SHAPES), POINTS)
    torch.testing.assert_close(ours.initial_offsets(), theirs.sampling_offsets.bias.detach())
