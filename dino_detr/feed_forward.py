"""The feed-forward layers of encoder and decoder, which keep no hidden values for the backward pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .cpu_linear import is_captured, is_untouched, linear, product, weight_gradient

_HIDDEN = 2**21  # values on a CPU that are worked on together: few enough to stay in a cache


class FeedForward(nn.Module):
    """Two linear layers with ReLU between, `[..., D]` -> `[..., D]`. The caller adds the residual."""

    def __init__(self, d_model: int, ffn_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)

    def forward(self, hidden_states: Tensor) -> Tensor:
        if is_captured() or not (is_untouched(self.fc1) and is_untouched(self.fc2)):
            return linear(self.fc2, F.relu(linear(self.fc1, hidden_states)))
        parameters = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        return _RecomputedFeedForward.apply(hidden_states, *parameters, compute_dtype(hidden_states))


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of products with `x`: autocast's if it is enabled, else `x.dtype`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _RecomputedFeedForward(torch.autograd.Function):
    """
    Feed-forward layers that keep no hidden values: gradients compute them again, on a CPU a few rows at a time.

    The parameters are in their own dtype, their gradients as well; `dtype` is what is computed in.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.dtype, ctx.parameter_dtype = dtype, weight1.dtype
        weight1, bias1, weight2, bias2 = (p.to(dtype) for p in (weight1, bias1, weight2, bias2))
        ctx.save_for_backward(x, weight1, bias1, weight2)
        output = x.new_empty(x.shape, dtype=dtype)
        for rows, into in zip(_parts(x, weight1), _parts(output, weight1)):
            into.copy_(product(F.relu_(product(rows.to(dtype), weight1, bias1)), weight2, bias2))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight1, bias1, weight2 = ctx.saved_tensors
        x_gradient = x.new_empty(x.shape)
        towards_x, towards_hidden = weight1.t().contiguous(), weight2.t().contiguous()  # once, or each product would
        totals = []
        for rows, row_gradient, into in zip(*(_parts(t, weight1) for t in (x, gradient, x_gradient))):
            rows = rows.to(ctx.dtype)
            hidden = F.relu_(product(rows, weight1, bias1))
            hidden_gradient = product(row_gradient, towards_hidden)
            torch.ops.aten.threshold_backward.grad_input(hidden_gradient, hidden, 0, grad_input=hidden_gradient)
            into.copy_(product(hidden_gradient, towards_x))
            part = (
                weight_gradient(rows, hidden_gradient),
                hidden_gradient.sum(0),
                weight_gradient(hidden, row_gradient),
                row_gradient.sum(0),
            )
            part = [p.to(ctx.parameter_dtype) for p in part]
            totals = [t.add_(p) for t, p in zip(totals, part)] if totals else part
        return x_gradient, *totals, None


def _parts(rows: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    rows = rows.flatten(0, -2)
    return rows.split(max(1, _HIDDEN // len(weight)) if rows.device.type == "cpu" else len(rows))
