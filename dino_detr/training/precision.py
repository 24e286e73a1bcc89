"""Precision and device of a run, chosen by what the machine has."""

import os
from typing import TYPE_CHECKING

import torch

from ..evaluation.precision import gpu_has_bf16

if TYPE_CHECKING:
    from .options import DinoDetrTrainingArguments


def settle_precision(options: "DinoDetrTrainingArguments") -> None:
    """
    Make `bf16: auto` true or false, and take the CPU where there is nothing else.

    On a CPU `auto` is float32, in which every CPU gives the same figures; not all compute faster in bf16.

    Raises:
        ValueError: if the GPU does not have the precision that is asked for.
    """
    if not torch.accelerator.is_available():
        options.use_cpu = True
    if options.bf16 not in (True, False, "auto"):
        raise ValueError(f"bf16={options.bf16} must be true, false or auto")
    launched_in_bf16 = os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"
    if options.bf16 == "auto":
        options.bf16 = not options.fp16 and (launched_in_bf16 or (not options.use_cpu and gpu_has_bf16()))
    elif options.bf16 and not options.use_cpu and torch.cuda.is_available() and not gpu_has_bf16():
        raise ValueError(
            f"bf16: {torch.cuda.get_device_name()} does not compute in it: take --bf16 auto, which is float32 there, "
            "or --bf16 false --fp16"
        )


def check_precision(options: "DinoDetrTrainingArguments") -> None:
    """
    Check that accelerate's precision is the recipe's, and that the device has it.

    Raises:
        ValueError: if not.
    """
    asked = precision_name(options)
    if options.mixed_precision != {"float32": "no"}.get(asked, asked):
        raise ValueError(
            f"accelerate's configuration says mixed_precision: {options.mixed_precision}, the recipe does not: set "
            f"{options.mixed_precision}: true in the recipe, or mixed_precision: 'no' there"
        )
    if options.fp16 and options.device.type == "cpu":
        raise ValueError("fp16 needs a GPU; on a CPU use bf16, or neither for float32")


def precision_name(options: "DinoDetrTrainingArguments") -> str:
    """Return `float32`, `bf16` or `fp16`."""
    if options.fp16:
        return "fp16"
    return "bf16" if options.bf16 else "float32"


def describe_device(options: "DinoDetrTrainingArguments") -> str:
    """Return precision and device, and why they are what they are: `float32 on the CPU (there is no GPU)`."""
    device = options.device
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        where = f"the CPU ({'use_cpu' if torch.accelerator.is_available() else 'there is no GPU'})"
    else:
        where = device.type
    return f"{precision_name(options)} on {where}"
