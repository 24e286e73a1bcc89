"""Sharding against the same model whole, in two processes on torch's CPU mesh; with accelerate in test_launch.py."""

import time
from contextlib import ContextDecorator, nullcontext
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny import tiny_detector
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dino_detr import DinoDetrForObjectDetection
from dino_detr.matching import NonFinitePredictions
from dino_detr.training import sharding

BATCHES = torch.arange(24.0).reshape(2, 4, 3) / 10 - 1  # of each process


def whole_model(seed: int = 0) -> nn.Sequential:
    """Layers of five and three rows, which two processes have different shares of."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def sharded_model(seed: int = 0) -> nn.Sequential:
    model = whole_model(seed)
    for module in (model[0], model[2], model):
        fully_shard(module, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    return model


def loss_of(model: nn.Module, rank: int) -> torch.Tensor:
    return model(BATCHES[rank]).square().sum()


def assert_equal(state: dict, expected: dict) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert not isinstance(state[name], DTensor), name
        torch.testing.assert_close(state[name], tensor, msg=name)


def check_states(rank: int) -> None:
    """Whole tensors go in and come out, as of a model that was never sharded; so do those of its optimiser."""
    model, expected = sharded_model(), whole_model().state_dict()
    full = sharding.full_state_dict({"model": model.state_dict(), "step": 3})
    assert full["step"] == 3
    assert_equal(full["model"], expected)
    assert sharding.is_sharded(model) and not sharding.is_sharded(whole_model())

    weight, whole = model[0].weight, expected["0.weight"]
    part = sharding.local_shard(weight.detach())
    assert torch.equal(part, (whole[:3], whole[3:])[rank])
    assert part.data_ptr() == weight.to_local().data_ptr() and sharding.local_shard(whole) is whole
    assert torch.equal(sharding.shard_like(whole + 1, weight).to_local(), part + 1)
    assert sharding.shard_like(whole, whole + 1) is whole

    trained = whole_model(seed=1)
    reference = torch.optim.AdamW(trained.parameters(), lr=0.1)
    for _ in range(3):
        loss_of(trained, 0).backward()
        reference.step()
        reference.zero_grad()
    sharding.load_weights(model, trained.state_dict())
    assert_equal(sharding.full_state_dict(model.state_dict()), trained.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    sharding.load_optimizer(optimizer, deepcopy(reference.state_dict()))
    for either, steps in ((model, optimizer), (trained, reference)):
        loss_of(either, 0).backward()
        steps.step()
    assert_equal(sharding.full_state_dict(model.state_dict()), trained.state_dict())
    states = sharding.full_state_dict(optimizer.state_dict())["state"]
    for index, values in reference.state_dict()["state"].items():
        assert_equal(states[index], values)


def check_one_process_alone(rank: int) -> None:
    """Passes of different numbers in each process, then common ones again. A process that waits ends the test late."""
    expected = whole_model()
    for resharded in (True, False):
        plugin = SimpleNamespace(reshard_after_forward=resharded)
        sharding.AcceleratorState = lambda plugin=plugin: SimpleNamespace(fsdp_plugin=plugin)
        model = sharded_model()
        with torch.no_grad(), sharding.whole_parameters(model):
            for _ in range(2 * rank):
                torch.testing.assert_close(model(BATCHES[rank]), expected(BATCHES[rank]))
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        with torch.no_grad():
            model(BATCHES[rank])
        assert isinstance(model[0].weight, DTensor) == resharded  # as accelerate's file says again

        model = sharded_model()
        with sharding.alone(model):
            for _ in range(1 + rank):
                loss_of(model, rank).backward()
            for parameter, other in zip(model.parameters(), gradients(1 + rank, rank)):
                torch.testing.assert_close(parameter.grad, other)
            model.zero_grad(set_to_none=True)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        loss_of(model, rank).backward()
        for parameter, own, others in zip(model.parameters(), gradients(1, 0), gradients(1, 1)):
            torch.testing.assert_close(parameter.grad.full_tensor(), (own + others) / 2)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


def gradients(times: int, rank: int) -> list[torch.Tensor]:
    model = whole_model()
    loss_of(model, rank).backward()
    return [times * parameter.grad for parameter in model.parameters()]


def run_checks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        check_states(rank)
        check_one_process_alone(rank)
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_make_what_one_does(tmp_path):
    processes = torch.multiprocessing.spawn(run_checks, (str(tmp_path),), nprocs=2, join=False)
    end = time.monotonic() + 240
    try:
        while not processes.join(timeout=5):  # True when both have ended
            assert time.monotonic() < end, "one process waits for the other"
    finally:
        for process in processes.processes:
            process.kill()


def test_a_model_that_is_not_sharded_is_left_as_it_is():
    model = whole_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with sharding.alone(model), sharding.whole_parameters(model), sharding.unsharded_class(model):
        assert type(model) is nn.Sequential
    assert_equal(model.state_dict(), before)
    other = whole_model(seed=1)
    sharding.load_weights(model, other.state_dict())
    assert_equal(model.state_dict(), other.state_dict())


def test_inside_its_context_a_sharded_model_is_of_its_own_class(monkeypatch):
    class Sharded(DinoDetrForObjectDetection):
        pass

    model = tiny_detector()
    model.__class__ = Sharded
    monkeypatch.setattr(sharding, "FSDPModule", Sharded)
    with pytest.raises(RuntimeError, match="save"), sharding.unsharded_class(model):
        assert type(model) is DinoDetrForObjectDetection
        raise RuntimeError("save")
    assert type(model) is Sharded


class Autocast(ContextDecorator, nullcontext):
    pass


@pytest.mark.parametrize("named", [None, ["Linear"]])
@pytest.mark.parametrize(("backbone", "block"), [("dinov2", "Dinov2Layer"), ("timm_backbone", "Block")])
def test_each_layer_is_gathered_by_itself_unless_others_are_named(named, backbone, block):
    plugin = SimpleNamespace(transformer_cls_names_to_wrap=named, mixed_precision_policy="accelerate's")
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), autocast=Autocast)
    model = tiny_detector(backbone)
    sharding.prepare_sharding(model, accelerator)
    layers = [block, "DinoDetrDecoderLayer", "DinoDetrEncoderLayer"]
    assert plugin.transformer_cls_names_to_wrap == (named or sorted(layers))
    assert plugin.mixed_precision_policy.param_dtype is None and model.get_input_embeddings() is None


def test_predictions_that_are_not_finite_end_a_pass_everywhere():
    model = nn.Module()
    faults = [NonFinitePredictions([True], [False]), KeyError("labels")]

    def forward(fault):
        raise fault

    model.forward = forward
    plugin = SimpleNamespace(transformer_cls_names_to_wrap=["Linear"])
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), autocast=Autocast)
    sharding.prepare_sharding(model, accelerator)
    assert model(faults[0]) is faults[0]
    with pytest.raises(KeyError):
        model(faults[1])
