"""Deformable attention against transformers' own, against its derivative, and against bilinear weights by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.launching import ENVIRONMENT
from helpers.tiny import tiny_detector
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrEncoder,
    DeformableDetrMultiscaleDeformableAttention,
)

from dino_detr.deformable_attention import MultiScaleDeformableAttention, deformable_sampling
from dino_detr.deformable_gather import _BLOCK

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


@pytest.mark.parametrize("sampling", ["plain", "gather"])
@pytest.mark.parametrize("masked", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("coordinates", [2, 4], ids=["points", "boxes"])
def test_equals_transformers_forward_and_backward(coordinates, masked, sampling):
    torch.manual_seed(0)
    theirs = DeformableDetrMultiscaleDeformableAttention(deformable_detr_config(), HEADS, POINTS)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = MultiScaleDeformableAttention(WIDTH, HEADS, len(SHAPES), POINTS)
    ours.load_state_dict(theirs.state_dict())
    ours.sampling = sampling
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


@pytest.mark.parametrize("sampling", ["plain", "gather"])
def test_sampling_has_the_gradient_it_should(sampling):
    torch.manual_seed(0)
    shapes = [(3, 4), (2, 1)]
    value = torch.randn(2, 14, 2, 3, dtype=torch.float64, requires_grad=True)
    locations = (torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()  # some are outside
    weights = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: deformable_sampling(inputs[0], shapes, *inputs[1:], sampling), (value, locations, weights)
    )


@pytest.mark.parametrize("sampling", ["plain", "gather"])
def test_samples_are_bilinear_and_zero_outside_the_map(sampling):
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
    samples = deformable_sampling(value, [(height, width)], locations, torch.ones(locations.shape[:-1]), sampling)
    torch.testing.assert_close(samples.flatten(), torch.tensor([float(sample) for sample in expected.values()]))


def test_heads_first_look_where_deformable_detr_does():
    theirs = DeformableDetrEncoder(deformable_detr_config()).layers[0].self_attn
    ours = MultiScaleDeformableAttention(WIDTH, HEADS, len(SHAPES), POINTS)
    torch.testing.assert_close(ours.initial_offsets(), theirs.sampling_offsets.bias.detach())


def sampled(sampling: str, dtype: torch.dtype, num_queries: int) -> list[torch.Tensor]:
    """The output and all gradients; heads are not a power of 2 wide, a third of the locations is outside the maps."""
    torch.manual_seed(0)
    value = torch.randn(2, TOKENS, HEADS, 6).to(dtype).requires_grad_()
    locations = (torch.rand(2, num_queries, HEADS, len(SHAPES), POINTS, 2) * 1.4 - 0.2).requires_grad_()
    weights = torch.randn(locations.shape[:-1], requires_grad=True)
    output = deformable_sampling(value, SHAPES, locations, weights, sampling)
    loss = (output * torch.randn(output.shape)).sum()
    return [output, *torch.autograd.grad(loss, [value, locations, weights])]


def assert_same_samples(sampling: str, num_queries: int = 70) -> None:
    for dtype, rtol in ((torch.float32, 1e-5), (torch.bfloat16, 2**-7)):
        plain, other = (sampled(name, dtype, num_queries) for name in ("plain", sampling))
        assert [tensor.dtype for tensor in other] == [dtype, dtype, torch.float32, torch.float32]
        for mine, its in zip(plain, other):
            torch.testing.assert_close(mine, its, rtol=rtol, atol=rtol * mine.abs().max().item())


def test_gathered_samples_are_the_same():
    """In several blocks, of which the last is not full."""
    num_queries = int(1.3 * _BLOCK / (2 * HEADS * len(SHAPES) * POINTS))
    assert_same_samples("gather", num_queries)


def assert_bad_locations_stay_bad(sampling: str) -> None:
    """What is no number is none in the output and the gradients that depend on it; infinitely far away is nothing."""
    value, weights = torch.randn(1, TOKENS, 1, 4), torch.ones(1, 4, 1, len(SHAPES), 1, requires_grad=True)
    locations = torch.full((1, 4, 1, len(SHAPES), 1, 2), 0.5)
    locations[0, 1] = torch.nan
    locations[0, 2] = torch.inf
    locations[0, 3, ..., 1] = torch.nan  # of one coordinate
    locations.requires_grad_()
    output = deformable_sampling(value, SHAPES, locations, weights, sampling)
    gradients = torch.autograd.grad(output.sum(), [locations, weights])
    for tensor in (output[0], gradients[0][0, :3], gradients[1][0]):
        assert tensor[0].isfinite().all() and tensor[1].isnan().all() and (tensor[2] == 0).all()
    assert output[0, 3].isnan().all() and gradients[1][0, 3].isnan().all()


def test_locations_that_are_no_numbers_stay_bad():
    assert_bad_locations_stay_bad("gather")


def assert_triton_works_for_every_dtype() -> None:
    """... and not where the backward pass fails, although the forward pass does not."""
    from dino_detr import deformable_triton

    cpu = torch.device("cpu")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with torch.inference_mode():
            assert deformable_triton.triton_works(cpu, dtype)
    deformable_triton.triton_works.cache_clear()
    deformable_triton._backward_kernel = None
    assert not deformable_triton.triton_works(cpu, torch.float32)


@pytest.mark.parametrize(
    "claim",
    [
        "assert_same_samples('triton')",
        "assert_bad_locations_stay_bad('triton')",
        "assert_triton_works_for_every_dtype()",
    ],
)
def test_triton_kernels_give_the_same(claim):
    """In Triton's interpreter: on the CPU, in a process of its own, since the kernels are made for it or for a GPU."""
    pytest.importorskip("triton")
    code = f"import test_deformable_attention as tests; tests.{claim}"
    folders = [str(Path(__file__).parent), *ENVIRONMENT["PYTHONPATH"].split(os.pathsep)]
    environment = {**ENVIRONMENT, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("width", [32, 6])
def test_triton_kernels_compile_for_a_gpu(width):
    """To machine code of an H100; no GPU is needed for that."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dino_detr import deformable_triton

    constants = {"HEADS": 8, "WIDTH": width, "CHANNELS": triton.next_power_of_2(width), "LEVELS": 4, "POINTS": 4}
    constants["BLOCK"] = deformable_triton.BLOCK
    inputs = {"value": "*bf16", "levels": "*i32", "locations": "*fp32", "weights": "*fp32"}
    counts = {"num_tokens": "i32", "num_queries": "i32"}
    forward = {**inputs, "output": "*bf16", **counts}
    backward = {**inputs, "gradient": "*bf16"}
    backward |= {f"{name}_gradient": "*fp32" for name in ("value", "locations", "weights")} | counts
    for kernel, signature in (
        (deformable_triton._forward_kernel, forward),
        (deformable_triton._backward_kernel, backward),
    ):
        fixed = constants | ({"OF_VALUE": True} if "OF_VALUE" in kernel.arg_names else {})
        signature = signature | dict.fromkeys(fixed, "constexpr")
        source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): value for name, value in fixed.items()})
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


def test_the_way_of_sampling_can_be_chosen():
    model = tiny_detector()
    model.set_deformable_sampling("plain")
    attentions = [m for m in model.modules() if isinstance(m, MultiScaleDeformableAttention)]
    assert attentions and {attention.sampling for attention in attentions} == {"plain"}
    assert "plain" not in model.config.to_json_string()
    with pytest.raises(ValueError, match="sampling 'cuda' is none of auto, plain, gather, triton"):
        model.set_deformable_sampling("cuda")
