"""`torch.compile`, layer by layer."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def compile_layers(model: nn.Module, **options) -> None:
    """
    Compile the layers of encoder, decoder and a backbone of transformers in place; names and weights stay as they are.

    Layers of a kind share one compilation. What lies between them runs as it is: compiled as a whole, the model takes
    many times as long to compile, and the matcher, which is numpy and scipy on the CPU, would be traced too. The blocks
    of a `timm:` backbone are not compiled.

    Args:
        options: of `torch.compile`.
    """
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(**options)
