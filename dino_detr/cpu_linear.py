"""Products of linear layers; the large float32 ones of a CPU are left to oneDNN."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

_LARGE = 2**24  # multiplications from which on a product is worth a detour
_MANY_ROWS = 1024  # from which on oneDNN is faster at gradients of weights as well


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """
    Return `layer(x)`; on a CPU the large float32 products of an `nn.Linear` take about half the time.

    There PyTorch has MKL multiply, which on AMD's processors is slow, and oneDNN convolve; so these are 1x1
    convolutions. The numbers are the same but for rounding. A layer that was exchanged or hooked is called.
    """
    if _is_for_onednn(x, layer.weight if type(layer) is nn.Linear else None) and is_untouched(layer):
        return _OneDnnLinear.apply(x, layer.weight, layer.bias)
    return layer(x)


class OneDnnLinears(TorchFunctionMode):
    """A context in which `F.linear` is as fast as `linear`, in other libraries' modules too, which stay as they are."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and _is_for_onednn(*args[:2]) and not _is_checkpointed():
            return _OneDnnLinear.apply(*args, *[None] * (3 - len(args)))
        return func(*args, **(kwargs or {}))


def fast_linears(x: Tensor) -> AbstractContextManager:
    """Return `OneDnnLinears` where it may make a difference to the layers that `x` goes through."""
    return OneDnnLinears() if _has_onednn(x) else nullcontext()


def is_captured() -> bool:
    """Whether a compiler, exporter or tracer is watching, which wants PyTorch's own operators."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def is_untouched(layer: nn.Module) -> bool:
    """Whether no adapter, quantisation, offloading or sharding exchanged the layer or waits for its call."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return not any(hooks) and _is_plain(layer.weight)


def _is_plain(tensor: Tensor) -> bool:
    """Tell a plain tensor from one of a subclass, as quantised and sharded weights are."""
    return type(tensor) in (Tensor, nn.Parameter)


def _has_onednn(x: Tensor) -> bool:
    return (
        not is_captured()  # first: a compiler would take sizes for fixed ones
        and x.device.type == "cpu"
        and torch.get_num_threads() > 1  # alone, a thread convolves with MKL too
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _is_for_onednn(x: Tensor, weight: Tensor | None) -> bool:
    return (
        weight is not None
        and _has_onednn(x)
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= _LARGE
        and _is_plain(x)
        and _is_plain(weight)
    )


def _is_checkpointed() -> bool:
    """Whether tensors are computed again for the backward pass, by what must then keep the same ones."""
    # torch's stubs leave this module out
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None  # pyright: ignore[reportAttributeAccessIssue]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply `[..., K]` and `[N, K]` to `[..., N]`, as `F.linear` does."""
    if not _is_for_onednn(x, weight):
        return F.linear(x, weight, bias)
    row = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # [1, K, 1, rows], its channels last in memory
    return F.conv2d(row, weight[:, :, None, None], bias).permute(0, 2, 3, 1).view(*x.shape[:-1], -1)


def weight_gradient(rows: Tensor, gradient: Tensor) -> Tensor:
    """Return the weights' gradient `[N, K]` from inputs `[R, K]` and the outputs' gradient `[R, N]`."""
    if len(rows) < _MANY_ROWS or not _is_for_onednn(rows, gradient.t()):
        # the smaller side first, which is faster
        return (rows.t() @ gradient).t() if rows.shape[1] < gradient.shape[1] else gradient.t() @ rows
    whole = len(rows) // 64 * 64  # as images of 64 cells, for of a number like 1,601 oneDNN is three times slower
    images, gradients = (x[:whole].view(-1, 1, 64, x.shape[1]).permute(0, 3, 1, 2) for x in (rows, gradient))
    total = conv2d_weight(images, (gradient.shape[1], rows.shape[1], 1, 1), gradients)[:, :, 0, 0]
    return total if whole == len(rows) else total.addmm_(gradient[whole:].t(), rows[whole:])


class _OneDnnLinear(torch.autograd.Function):
    """`F.linear` as a convolution, without its own gradient of weights: slow where rows are few or hard to divide."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias).data  # not a view, so that it may be changed in place as `F.linear`'s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            product(gradient, weight.t()) if needed[0] else None,
            weight_gradient(x.reshape(-1, x.shape[-1]), rows) if needed[1] else None,
            rows.sum(0) if needed[2] else None,
        )
