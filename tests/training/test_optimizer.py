"""Muon and AdamW as one optimiser: each does what torch's own does alone, and checkpoints and schedules see both."""

import copy

import pytest
import torch
from helpers.tiny import tiny_detector
from torch import nn

from dino_detr.training.optimizer import build_optimizer, build_step_schedule


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny_detector()


def give_gradients(model: nn.Module, step: int) -> None:
    torch.manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def train(model: nn.Module, optimizers, steps: range) -> None:
    for step in steps:
        give_gradients(model, step)
        for optimizer in optimizers:
            optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


def test_each_parameter_learns_as_by_torchs_own(model):
    other = copy.deepcopy(model)
    train(model, [build_optimizer(model, 1e-3, 0.1, backbone_lr_factor=0.5, muon=True)], range(3))
    heads = ("class_embed", "bbox_embed")
    linear = {f"{name}.weight" for name, module in other.named_modules() if isinstance(module, nn.Linear)}
    optimizers = []
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            rate = 5e-4 if "backbone" in name or "pyramid" in name else 1e-3
            if name in linear and not any(head in name for head in heads):
                own = torch.optim.Muon([parameter], rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
            else:
                module = other.get_submodule(name.rpartition(".")[0])
                decay = 0.0 if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) else 0.1
                own = torch.optim.AdamW([parameter], rate, weight_decay=decay)
            optimizers.append(own)
    assert sum(isinstance(own, torch.optim.Muon) for own in optimizers) > 20
    train(other, optimizers, range(3))
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, msg=name)


def test_it_goes_on_from_its_state(model, tmp_path):
    optimizer = build_optimizer(model, 1e-3, muon=True)
    train(model, [optimizer], range(2))
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    train(model, [optimizer], range(2, 4))

    torch.manual_seed(1)
    resumed = tiny_detector()
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(weights)
    fresh = build_optimizer(resumed, 1e-3, muon=True)
    fresh.load_state_dict(state)
    train(resumed, [fresh], range(2, 4))
    assert same(model, resumed)


def test_a_schedule_reaches_both(model):
    optimizer = build_optimizer(model, 1e-3, muon=True)
    schedule = build_step_schedule(optimizer, 2, [1])
    before = copy.deepcopy(model)
    train(model, [optimizer], range(1))
    schedule.step()
    assert {round(group["lr"], 10) for group in optimizer.param_groups} == {1e-4, 1e-5}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    middle = copy.deepcopy(model)
    train(model, [optimizer], range(1, 2))
    assert same(model, middle) and not same(model, before)
