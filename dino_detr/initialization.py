"""The initial weights of each kind of module, as the reference has them."""

import math
from functools import singledispatch

from torch import nn
from transformers import initialization as init

from .deformable_attention import MultiScaleDeformableAttention
from .feature_pyramid import ChannelsFirstLayerNorm, Neck
from .feed_forward import FeedForward
from .query_selection import QuerySelection


@singledispatch
def initialize(module: nn.Module) -> None:
    """
    Initialise a module by its type; one of a type that is not registered is left to its parts.

    Called for every module, children before parents, so that a parent has the last word on its children.
    """


@initialize.register(nn.Linear)
@initialize.register(nn.Conv2d)
@initialize.register(nn.ConvTranspose2d)
def _as_torch_does(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    if module.bias is not None:
        bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(module.weight)[0])
        init.uniform_(module.bias, -bound, bound)


@initialize.register
def _embedding(module: nn.Embedding) -> None:
    init.normal_(module.weight)


@initialize.register(nn.LayerNorm)
@initialize.register(nn.GroupNorm)
@initialize.register(ChannelsFirstLayerNorm)
def _norm(module: nn.LayerNorm | nn.GroupNorm | ChannelsFirstLayerNorm) -> None:
    init.ones_(module.weight)
    init.zeros_(module.bias)


@initialize.register
def _neck(module: Neck) -> None:
    for level in module.levels:
        xavier(level.get_submodule("0"))


@initialize.register
def _feed_forward(module: FeedForward) -> None:
    init.xavier_uniform_(module.fc1.weight)
    init.xavier_uniform_(module.fc2.weight)


@initialize.register
def _deformable_attention(module: MultiScaleDeformableAttention) -> None:
    init.zeros_(module.sampling_offsets.weight)
    init.copy_(module.sampling_offsets.bias, module.initial_offsets())
    init.zeros_(module.attention_weights.weight)
    init.zeros_(module.attention_weights.bias)
    xavier(module.value_proj)
    xavier(module.output_proj)


@initialize.register
def _query_selection(module: QuerySelection) -> None:
    init.xavier_uniform_(module.enc_output.weight)


def xavier(layer: nn.Module, gain: float = 1.0) -> None:
    """Xavier-uniform weights and a bias of zero."""
    init.xavier_uniform_(layer.get_parameter("weight"), gain=gain)
    init.zeros_(layer.get_parameter("bias"))
