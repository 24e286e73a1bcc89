"""Feed-forward layers against PyTorch's in float64."""

import pytest
import torch
from helpers.exactness import output_and_gradients, relative_errors
from torch import nn
from torch.nn import functional as F

from dino_detr import cpu_linear as products
from dino_detr import feed_forward
from dino_detr.feed_forward import FeedForward

pytestmark = pytest.mark.usefixtures("two_threads")


class Definition(nn.Module):
    """Of `FeedForward`, in PyTorch's own layers."""

    def __init__(self, ours: FeedForward):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(*ours.fc1.weight.T.shape), nn.Linear(*ours.fc2.weight.T.shape)
        self.load_state_dict(ours.state_dict())

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)))


@pytest.mark.parametrize("hidden_at_once", [2**22, 5000])
def test_feed_forward_is_the_same_and_keeps_no_hidden_values(monkeypatch, hidden_at_once):
    monkeypatch.setattr(feed_forward, "_HIDDEN", hidden_at_once)
    monkeypatch.setattr(products, "_LARGE", 1)
    torch.manual_seed(0)
    x, direction = torch.randn(2, 32, 103).transpose(1, 2), torch.randn(2, 103, 32)  # one out of order in memory
    ours = FeedForward(32, 512)
    exact = Definition(ours).double()
    # where a hidden value is all but zero its sign, and so its gradient, is a matter of rounding
    assert exact.fc1(x.double()).abs().min() > 1e-6
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        results = output_and_gradients(ours, x, direction)
    assert max(kept) < 2 * 103 * 512
    assert max(relative_errors(results, output_and_gradients(exact, x.double(), direction))) < 2e-6
    with torch.no_grad():
        assert torch.equal(ours(x), results[0])


def test_feed_forward_under_autocast():
    torch.manual_seed(0)
    ours, x, direction = FeedForward(32, 512), torch.randn(2, 603, 32), torch.randn(2, 603, 32)
    exact = output_and_gradients(Definition(ours).double(), x.double(), direction)
    with torch.autocast("cpu", torch.bfloat16):
        results, pytorchs = (output_and_gradients(module, x, direction) for module in (ours, Definition(ours)))
    assert [r.dtype for r in results] == [torch.bfloat16] + [torch.float32] * 5
    for ours, pytorch, right in zip(results, pytorchs, exact):
        assert 0 < (ours - right).norm() < 1.05 * (pytorch - right).norm()
