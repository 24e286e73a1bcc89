"""Deformable sampling on a GPU: a Triton kernel forward, another backward, and nothing kept between but the inputs."""

# What follows runs only where triton could be imported, which a type checker cannot see.
# pyright: reportPossiblyUnboundVariable=false, reportOptionalMemberAccess=false

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.utils import logging

try:
    import triton
    import triton.language as tl
except ImportError:  # a build of torch without it
    triton = None

logger = logging.get_logger(__name__)

BLOCK = 32  # queries of a program

if triton is not None:

    @triton.jit
    def _place(
        num_tokens, num_queries,
        HEADS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """Return a program's place in the values, its rows, which of these exist, its channels, which exist."""
        image, head = tl.program_id(1).to(tl.int64) // HEADS, tl.program_id(1) % HEADS
        query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        row = (image * num_queries + query) * HEADS + head
        channels = tl.arange(0, CHANNELS)
        return (image * num_tokens * HEADS + head) * WIDTH, row, query < num_queries, channels, channels < WIDTH

    @triton.jit
    def _position(locations, sample, mask, extent):
        """Return, along one axis, the cell before a location and the share of the one after."""
        position = tl.load(locations + sample, mask=mask, other=0.0).to(tl.float32) * extent - 0.5
        # far outside is as good as just outside, and fits an integer; what is no number stays none
        position = tl.clamp(position, -2.0, extent + 1.0, propagate_nan=tl.PropagateNan.ALL)
        before = tl.floor(position)
        return before.to(tl.int32), position - before

    @triton.jit
    def _corner(x, y, width, height, start, mask):
        """Return the token of a cell, and whether there is one."""
        return start + y * width + x, mask & (x >= 0) & (x < width) & (y >= 0) & (y < height)

    @triton.jit
    def _load_rows(value, token, within, stride, channels, in_head):
        pointers = value + token.to(tl.int64)[:, None] * stride + channels[None, :]
        return tl.load(pointers, mask=within[:, None] & in_head[None, :], other=0.0).to(tl.float32)

    @triton.jit
    def _add_rows(value, token, within, stride, channels, in_head, rows):
        pointers = value + token.to(tl.int64)[:, None] * stride + channels[None, :]
        tl.atomic_add(pointers, rows, mask=within[:, None] & in_head[None, :], sem="relaxed")

    @triton.jit
    def _forward_kernel(
        value, levels, locations, weights, output, num_tokens, num_queries,
        HEADS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
        LEVELS: tl.constexpr, POINTS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        of_head, row, mask, channels, in_head = _place(num_tokens, num_queries, HEADS, WIDTH, CHANNELS, BLOCK)
        total = tl.zeros((BLOCK, CHANNELS), dtype=tl.float32)
        for level in range(LEVELS):
            height, width = tl.load(levels + level * 3), tl.load(levels + level * 3 + 1)
            start = tl.load(levels + level * 3 + 2)
            for point in range(POINTS):
                sample = (row * LEVELS + level) * POINTS + point
                weight = tl.load(weights + sample, mask=mask, other=0.0).to(tl.float32)
                x, right = _position(locations, sample * 2, mask, width)
                y, lower = _position(locations, sample * 2 + 1, mask, height)
                for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues] unrolled by the compiler
                    dx, dy = corner % 2, corner // 2
                    token, within = _corner(x + dx, y + dy, width, height, start, mask)
                    share = (right if dx else 1 - right) * (lower if dy else 1 - lower)
                    rows = _load_rows(value + of_head, token, within, HEADS * WIDTH, channels, in_head)
                    total += (weight * share)[:, None] * rows
        pointers = output + row[:, None] * WIDTH + channels[None, :]
        tl.store(pointers, total.to(output.dtype.element_ty), mask=mask[:, None] & in_head[None, :])

    @triton.jit
    def _backward_kernel(
        value, levels, locations, weights, gradient, value_gradient, locations_gradient, weights_gradient,
        num_tokens, num_queries,
        HEADS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
        LEVELS: tl.constexpr, POINTS: tl.constexpr, BLOCK: tl.constexpr, OF_VALUE: tl.constexpr,
    ):  # fmt: skip
        of_head, row, mask, channels, in_head = _place(num_tokens, num_queries, HEADS, WIDTH, CHANNELS, BLOCK)
        pointers = gradient + row[:, None] * WIDTH + channels[None, :]
        arriving = tl.load(pointers, mask=mask[:, None] & in_head[None, :], other=0.0).to(tl.float32)
        for level in range(LEVELS):
            height, width = tl.load(levels + level * 3), tl.load(levels + level * 3 + 1)
            start = tl.load(levels + level * 3 + 2)
            for point in range(POINTS):
                sample = (row * LEVELS + level) * POINTS + point
                weight = tl.load(weights + sample, mask=mask, other=0.0).to(tl.float32)
                x, right = _position(locations, sample * 2, mask, width)
                y, lower = _position(locations, sample * 2 + 1, mask, height)
                by_weight = tl.zeros((BLOCK,), dtype=tl.float32)
                by_x = tl.zeros((BLOCK,), dtype=tl.float32)
                by_y = tl.zeros((BLOCK,), dtype=tl.float32)
                for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues] unrolled by the compiler
                    dx, dy = corner % 2, corner // 2
                    token, within = _corner(x + dx, y + dy, width, height, start, mask)
                    x_share, y_share = right if dx else 1 - right, lower if dy else 1 - lower
                    rows = _load_rows(value + of_head, token, within, HEADS * WIDTH, channels, in_head)
                    product = tl.sum(arriving * rows, axis=1)
                    by_weight += product * x_share * y_share
                    by_x += product * y_share * (2 * dx - 1)
                    by_y += product * x_share * (2 * dy - 1)
                    if OF_VALUE:
                        scale = (weight * x_share * y_share)[:, None]
                        _add_rows(
                            value_gradient + of_head, token, within, HEADS * WIDTH, channels, in_head, arriving * scale
                        )
                tl.store(weights_gradient + sample, by_weight, mask=mask)
                tl.store(locations_gradient + sample * 2, by_x * weight * width, mask=mask)
                tl.store(locations_gradient + sample * 2 + 1, by_y * weight * height, mask=mask)


class TritonSampling(torch.autograd.Function):
    """
    What `plain_sampling` defines. Sums and locations are in float32, whatever the dtype of the values.

    The gradient of the values is added up atomically, in no fixed order: its last bits differ from run to run.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, spatial_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Take `[B, S, heads, head_dim]`, float32 `[B, Q, heads, levels, points, 2]`, and the same without the 2."""
        value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
        levels, start = [], 0
        for height, width in spatial_shapes:
            levels.append((height, width, start))
            start += height * width
        levels = torch.tensor(levels, dtype=torch.int32).to(value.device, non_blocking=True)
        ctx.save_for_backward(value, levels, locations, weights)
        output = value.new_empty(*locations.shape[:2], value.shape[2] * value.shape[3])
        grid, constants = _launch(value, locations)
        with torch.cuda.device_of(value):  # which may not be the current one
            _forward_kernel[grid](
                value, levels, locations, weights, output, value.shape[1], locations.shape[1], **constants
            )
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        value, levels, locations, weights = ctx.saved_tensors
        value_gradient = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
        locations_gradient, weights_gradient = torch.empty_like(locations), torch.empty_like(weights)
        grid, constants = _launch(value, locations)
        with torch.cuda.device_of(value):
            _backward_kernel[grid](
                value, levels, locations, weights, gradient.contiguous(),
                value_gradient, locations_gradient, weights_gradient,
                value.shape[1], locations.shape[1], OF_VALUE=ctx.needs_input_grad[0], **constants,
            )  # fmt: skip
        return value_gradient.to(value.dtype), locations_gradient, weights_gradient, None


def _launch(value: Tensor, locations: Tensor) -> tuple[tuple[int, int], dict[str, Any]]:
    """Return the grid of programs and the constants that the kernels are specialised for."""
    batch_size, num_queries, num_heads, num_levels, num_points, _ = locations.shape
    constants = {
        "HEADS": num_heads,
        "WIDTH": value.shape[3],
        "CHANNELS": triton.next_power_of_2(value.shape[3]),
        "LEVELS": num_levels,
        "POINTS": num_points,
        "BLOCK": BLOCK,
    }
    return (triton.cdiv(num_queries, BLOCK), batch_size * num_heads), constants


@torch._dynamo.assume_constant_result
@cache
def triton_works(device: torch.device, dtype: torch.dtype) -> bool:
    """
    Whether the kernels run on a GPU with values of a dtype, backward included; if not, it is said why, once.

    Triton needs a C compiler.
    """
    if triton is None:
        logger.warning_once(
            "Deformable attention runs without its kernel, for there is no triton here: pip install triton"
        )
        return False
    try:
        _try_kernels(device, dtype)
    except Exception as error:
        reason = "".join(str(error).strip().splitlines()[:1]) or type(error).__name__
        logger.warning_once(f"Deformable attention runs without its Triton kernels, which fail for {dtype}: {reason}")
        return False
    return True


def _try_kernels(device: torch.device, dtype: torch.dtype) -> None:
    """Sample the middle of a map of one cell."""
    with torch.inference_mode(False), torch.enable_grad():
        value = torch.ones(1, 1, 1, 1, dtype=dtype, device=device, requires_grad=True)
        locations = torch.full((1, 1, 1, 1, 1, 2), 0.5, device=device, requires_grad=True)
        weights = torch.ones(1, 1, 1, 1, 1, device=device, requires_grad=True)
        output = TritonSampling.apply(value, locations, weights, [(1, 1)])
        gradients = torch.autograd.grad(output, (value, weights), torch.ones_like(output))
        found = [tensor.item() for tensor in (output, *gradients)]
    if found != [1.0, 1.0, 1.0]:
        raise RuntimeError(f"they give {found} instead of ones")
