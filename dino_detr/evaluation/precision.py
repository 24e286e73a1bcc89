"""The precision of an evaluation: that in which the checkpoint's run evaluated."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ..runs.checkpoint import find_file
from ..runs.history import read_mapping
from ..runs.names import RECIPE_YAML

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def evaluation_precision(checkpoint: str | Path) -> tuple[str, Path | None]:
    """
    Return the precision in which a run evaluated, and the recipe that says so.

    The recipe is the one in the checkpoint's folder or repository, or that of the run of which the checkpoint is a
    part. Without one it is `float32` and None.
    """
    recipe = _find_recipe(checkpoint)
    if recipe is None:
        return "float32", None
    options = read_mapping(recipe)
    return next((name for name in _DTYPES if options.get(name) is True), "float32"), recipe


def _find_recipe(checkpoint: str | Path) -> Path | None:
    """Look into the folder itself and, of `checkpoint-<step>` and `checkpoint-<step>/ema`, that of the run."""
    folder = Path(checkpoint).resolve()
    inner = [parent for parent in (folder, folder.parent) if parent.name.startswith("checkpoint-")]
    runs = [parent.parent for parent in inner] if folder.is_dir() else []
    return next(filter(None, (find_file(each, RECIPE_YAML) for each in (checkpoint, *runs))), None)


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
    lacking = {"fp16": device.type == "cpu", "bf16": device.type == "cuda" and not gpu_has_bf16()}
    if lacking[precision]:
        return nullcontext(), f"Computing in float32: {recipe} says {precision}, which this device does not have."
    sentence = f"Computing in {precision}, as {recipe} says that the run did."
    return torch.autocast(device.type, dtype=_DTYPES[precision]), sentence


def gpu_has_bf16() -> bool:
    """Tell whether the accelerator computes in bf16, not emulating it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator is not None and accelerator.type == "xpu"
