"""
FSDP2 (`accelerate launch --config_file recipes/accelerate/fsdp2.yaml`): parameters in shards, one a process.

Checkpoints hold whole tensors, as those of every other layout, so that a run may go on in another one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map
from transformers.modeling_layers import GradientCheckpointingLayer

from ..matching import NonFinitePredictions
from ..modeling_dino_detr import DinoDetrForObjectDetection


def prepare_sharding(model: nn.Module, accelerator: Accelerator) -> None:
    """
    Tell accelerate's FSDP2 which layers are gathered one by one, unless its configuration names others, and that
    precision is autocast's, as in other layouts.

    (By itself accelerate would gather parameters in bf16 and cast what goes into each layer, boxes included. Autocast
    it leaves to other layouts.)
    """
    plugin = accelerator.state.fsdp_plugin
    assert plugin is not None
    if not plugin.transformer_cls_names_to_wrap:
        names = {type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)}
        names |= {"Block" for module in model.modules() if type(module).__name__ == "Block"}  # timm's
        plugin.transformer_cls_names_to_wrap = sorted(names)
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    model.forward = _ending_everywhere(accelerator.autocast()(model.forward))
    # it asks; a detector has none, and transformers raises
    model.get_input_embeddings = lambda: None  # pyright: ignore[reportArgumentType]


def _ending_everywhere(forward: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return the exception of predictions that are not finite instead of raising it, for `Step.forward` to raise.

    FSDP2 looks after its parameters when a forward pass has ended, and would not when one is left by an exception. The
    processes whose predictions are finite would then wait in a collective for those whose are not.
    """

    @wraps(forward)
    def ending(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except NonFinitePredictions as fault:
            return fault

    return ending


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """
    Inside this context each process may run forward and backward passes that the others do not run. All enter it, and
    all leave it. A gradient is then the process's own. A model that is not sharded is left as it is.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_requires_gradient_sync(False)
    model.set_reshard_after_backward(False)
    try:
        with whole_parameters(model):
            yield
    finally:
        model.set_requires_gradient_sync(True)
        model.set_reshard_after_backward(True)


@contextmanager
def whole_parameters(model: nn.Module) -> Iterator[None]:
    """
    Inside this context every process has all parameters, and its forward passes (without gradient) need no other
    process: each may run as many as it likes. A model that is not sharded is left as it is.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for shard in shards:
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()
        plugin = AcceleratorState().fsdp_plugin
        assert plugin is not None
        model.set_reshard_after_forward(plugin.reshard_after_forward)
        model.set_reshard_after_forward(False, recurse=False)  # as FSDP2 leaves the root: its backward comes at once


@contextmanager
def unsharded_class(model: nn.Module) -> Iterator[None]:
    """
    Inside this context a sharded model is of its own class.

    FSDP2 makes it one of torch's, and `save_pretrained` would take torch's code along instead of the model's.
    """
    kind = type(model)
    if is_sharded(model):
        model.__class__ = DinoDetrForObjectDetection
    try:
        yield
    finally:
        model.__class__ = kind


def local_shard(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, in the same memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_state_dict(state: dict[str, Any]) -> dict[str, Any]:
    """
    Return a state dict, however nested, with whole tensors on the CPU for sharded ones. Every process must take part.

    (torch.distributed.checkpoint's names the states of an optimiser by parameters; `optimizer.pt` counts them.)
    """
    return tree_map(lambda value: value.full_tensor().cpu() if isinstance(value, DTensor) else value, state)


def shard_like(whole: Tensor, sharded: Tensor) -> Tensor:
    """Return a whole tensor that every process has, cut as `sharded` is, if it is."""
    if not isinstance(sharded, DTensor):
        return whole
    return distribute_tensor(
        whole.to(sharded.device), sharded.device_mesh, sharded.placements, src_data_rank=None
    )  # every process cuts its own


@torch.no_grad()
def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load whole tensors into a model, sharded or not."""
    model.load_state_dict({name: shard_like(weights[name], tensor) for name, tensor in model.state_dict().items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of whole tensors into an optimiser of parameters, sharded or not."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        index: {name: shard_like(value, parameters[index]) if value.ndim else value for name, value in values.items()}
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})
