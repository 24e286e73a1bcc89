"""What accelerate is told before it prepares the model."""

import os
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn

from .compilation import compile_layers
from .options import DinoDetrTrainingArguments
from .sharding import prepare_sharding


def settle_launch(model: nn.Module, options: DinoDetrTrainingArguments, accelerator: Accelerator) -> None:
    """
    Have the model sharded and compiled layer by layer, if that was asked for.

    Raises:
        ValueError: if FSDP would be another version's, on a CPU, or beside Muon.
    """
    if accelerator.is_fsdp2:
        if options.muon:
            raise ValueError("muon needs whole matrices, which FSDP cuts into shards: leave one of them out")
        prepare_sharding(model, accelerator)
    elif getattr(accelerator.state, "fsdp_plugin", None) is not None or os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise ValueError(
            "FSDP trains on GPUs, as fsdp_version 2: take recipes/accelerate/fsdp2.yaml there, ddp.yaml on a CPU"
        )
    if options.torch_compile:  # the layers, not, as accelerate would, everything down to the matcher
        compile_layers(model, backend=options.torch_compile_backend, mode=options.torch_compile_mode)
        plugin: Any = accelerator.state.dynamo_plugin
        plugin.backend = DynamoBackend.NO
