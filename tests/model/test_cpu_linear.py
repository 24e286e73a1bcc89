"""Products of linear layers against PyTorch's in float64, and layers that others exchanged."""

import copy

import pytest
import torch
from helpers.exactness import output_and_gradients, relative_errors
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from dino_detr import cpu_linear as products
from dino_detr.cpu_linear import fast_linears, linear
from dino_detr.feed_forward import FeedForward

pytestmark = pytest.mark.usefixtures("two_threads")


class Ours(nn.Module):
    """`nn.Linear` as our own layers use it, or as another library's layers do within ours."""

    def __init__(self, layer: nn.Linear, inside: bool):
        super().__init__()
        self.layer, self.inside = layer, inside

    def forward(self, x):
        if not self.inside:
            return linear(self.layer, x)
        with fast_linears(x):
            return self.layer(x)


@pytest.mark.parametrize("inside", [False, True], ids=["our layer", "a stranger's"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1601), (3, 700)])
def test_large_products_go_to_onednn_and_are_the_same(shape, bias, inside):
    torch.manual_seed(0)
    layer, x, direction = nn.Linear(96, 160, bias=bias), torch.randn(*shape, 96), torch.randn(*shape, 160)
    ours, exact = Ours(layer, inside), copy.deepcopy(layer).double()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        results = output_and_gradients(ours, x, direction)
    names = [event.name for event in record.events()]
    assert names.count("aten::mkldnn_convolution") == 2  # output, gradient of x
    assert names.count("aten::convolution_backward") == 1  # gradient of the weights
    assert max(relative_errors(results, output_and_gradients(exact, x.double(), direction))) < 2e-6
    with torch.no_grad():
        assert torch.equal(ours(x), results[0])


def test_outputs_can_be_changed_in_place():
    torch.manual_seed(0)
    layer, x = nn.Linear(96, 160), torch.randn(1601, 96, requires_grad=True)
    masked = torch.rand(1601, 1) < 0.5
    linear(layer, x).masked_fill_(masked, 0.0).sum().backward()
    assert torch.equal(x.grad.abs().sum(1) == 0, masked[:, 0])


@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooked_layers_are_called(hook, monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    for ours, layer in ((FeedForward(8, 16), "fc1"), (Ours(nn.Linear(8, 8), inside=False), "layer")):
        seen = []
        getattr(getattr(ours, layer), f"register_{hook}_hook")(lambda *_, seen=seen: seen.append("hook"))
        ours(torch.randn(1, 5, 8, requires_grad=True)).sum().backward()
        assert seen == ["hook"]


def test_exchanged_layers_are_called(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    ours, x = FeedForward(8, 16), torch.randn(1, 5, 8)
    ours.fc2 = nn.Sequential(ours.fc2, nn.Tanh())  # as an adapter would
    assert ours(x).abs().max() < 1


class Halved(torch.Tensor):
    """As quantisers put it in place of a weight: what is computed with it is its own affair."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.detach:
            return result.as_subclass(cls)
        return result / 2 if func is F.linear else result


@pytest.mark.parametrize("inside", [False, True], ids=["our layer", "a stranger's"])
def test_weights_of_another_kind_compute_as_they_do(inside, monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    layer, x = nn.Linear(8, 16, bias=False).requires_grad_(False), torch.randn(1, 5, 8)
    plain = layer(x)
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Halved), requires_grad=False)
    torch.testing.assert_close(Ours(layer, inside)(x), plain / 2)


def test_layers_of_others_may_be_checkpointed(monkeypatch):
    """What is computed again keeps the same tensors, or torch stops."""
    monkeypatch.setattr(products, "_LARGE", 1)
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 8), torch.randn(1, 5, 8, requires_grad=True)
    gradients = []
    for use_reentrant in (False, True):
        with fast_linears(x):
            output = checkpoint(layer, x, use_reentrant=use_reentrant)
        layer.zero_grad()
        output.sum().backward()
        gradients.append(layer.weight.grad)
    torch.testing.assert_close(*gradients)
