"""Running out of memory ends in a sentence that says what to change."""

import errno
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..options import DinoDetrTrainingArguments

# What torch, C++ and the data workers say of it, on CPUs and GPUs.
_SIGNS = (
    "can't allocate memory", "not enough memory", "out of memory", "DefaultCPUAllocator", "ALLOC_FAILED",
    "Cannot allocate memory", "std::bad_alloc", "is killed by signal: Killed", "MPS backend out of memory",
)  # fmt: skip


class OutOfMemory(Exception):
    """There was no memory left; the message says what takes less."""


def is_out_of_memory(fault: BaseException) -> bool:
    """Return whether this is why it failed: on the device, in main memory, or in a data worker."""
    if isinstance(fault, (MemoryError, torch.OutOfMemoryError)) or getattr(fault, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(fault, (RuntimeError, OSError)) and any(sign in str(fault) for sign in _SIGNS)


def explain_out_of_memory(train: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of a trainer raise `OutOfMemory` where memory ends."""

    @wraps(train)
    def explained(trainer: Any) -> Any:
        try:
            return train(trainer)
        except Exception as fault:
            if not is_out_of_memory(fault):
                raise
            sentence = f"out of memory at step {trainer.state.global_step}: {what_takes_less(trainer.args)}."
            if trainer.state.global_step and trainer.args.save_strategy != "no":
                sentence += " The checkpoints before it are whole: go on with --resume_from_checkpoint latest"
            raise OutOfMemory(sentence) from fault

    return explained


def what_takes_less(options: "DinoDetrTrainingArguments") -> str:
    """Return which options to change, first the one that leaves the result as it is."""
    parts, at_once = [], options.per_device_train_batch_size
    if at_once > 1:
        fewer = max(part for part in range(1, at_once) if at_once % part == 0)
        steps = options.gradient_accumulation_steps * at_once // fewer
        parts.append(f"--gradient_accumulation_steps {steps} (the same step, {fewer} of {at_once} images at a time)")
    if not options.gradient_checkpointing:
        parts.append("--gradient_checkpointing (about 60 % of the memory, a third more time)")
    smaller, longest = max(options.image_sizes) * 3 // 4, options.max_image_size * 3 // 4
    parts.append(f"smaller images (--image_sizes {smaller} --max_image_size {longest})")
    return f"to need less: {', or '.join(parts)}"
