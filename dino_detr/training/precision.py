"""Precision and device of a run: chosen by what the machine has, and the same in later evaluations."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from transformers.utils import cached_file

from ..runs.names import RECIPE_YAML

if TYPE_CHECKING:
    from .options import DinoDetrTrainingArguments

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
        options.bf16 = not options.fp16 and (launched_in_bf16 or (not options.use_cpu and _gpu_has_bf16()))
    elif options.bf16 and not options.use_cpu and torch.cuda.is_available() and not _gpu_has_bf16():
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


def evaluation_precision(checkpoint: str | Path) -> tuple[str, Path | None]:
    """
    Return the precision in which a run evaluated, and the recipe that says so.

    The recipe is the one in the checkpoint's folder or repository, or that of the run of which the checkpoint is a
    part. Without one it is `float32` and None.
    """
    recipe = _find_recipe(checkpoint)
    if recipe is None:
        return "float32", None
    try:
        said = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{recipe} cannot be read: {' '.join(str(error).split())}") from error
    said = said if isinstance(said, dict) else {}
    return next((name for name in _DTYPES if said.get(name) is True), "float32"), recipe


def _find_recipe(checkpoint: str | Path) -> Path | None:
    """Look into the folder itself and, of `checkpoint-<step>` and `checkpoint-<step>/ema`, that of the run."""
    if not Path(checkpoint).is_dir():
        try:
            return Path(cached_file(str(checkpoint), RECIPE_YAML))
        except OSError:  # the repository has none, or cannot be reached
            return None
    folder = Path(checkpoint).resolve()
    inner = [parent for parent in (folder, folder.parent) if parent.name.startswith("checkpoint-")]
    places = [Path(checkpoint), *(parent.parent for parent in inner)]
    return next((place / RECIPE_YAML for place in places if (place / RECIPE_YAML).is_file()), None)


def autocast_as_trained(checkpoint: str | Path, device: torch.device) -> tuple[AbstractContextManager, str | None]:
    """
    Return the context to compute in as the run of this checkpoint did, and a sentence of what differs from float32.

    Args:
        checkpoint: folder or Hub id.
        device: of the model.
    """
    precision, recipe = evaluation_precision(checkpoint)
    if precision == "float32":
        return nullcontext(), None
    lacking = {"fp16": device.type == "cpu", "bf16": device.type == "cuda" and not _gpu_has_bf16()}
    if lacking[precision]:
        return nullcontext(), f"Computing in float32: {recipe} says {precision}, which this device does not have."
    sentence = f"Computing in {precision}, as {recipe} says that the run did."
    return torch.autocast(device.type, dtype=_DTYPES[precision]), sentence


def _gpu_has_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == "xpu"
