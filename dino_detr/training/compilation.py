"""`torch.compile`, layer by layer."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def compile_layers(model: nn.Module, **options: Any) -> None:
    """
    Compile the layers of encoder, decoder and a backbone of transformers in place; names and weights stay as they are.

    Layers of a kind share one compilation, which serves images of any size. What lies between them runs as it is:
    compiled as a whole, the model takes many times as long to compile, and the matcher, which is numpy and scipy on the
    CPU, would be traced too. The blocks of a `timm:` backbone are not compiled.

    Args:
        options: of `torch.compile`.
    """
    # All kinds of layers share transformers' `forward`, and so one count of compilations: three kinds in training and
    # in evaluation, for one image and for several, are more than torch's limit of 8, past which all would run as it is.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True, **options)
