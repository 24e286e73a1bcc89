"""What a run will be, in a line before its first step, and whether there is memory for it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..runs.history import read_mapping
from ..runs.names import RECIPE_YAML
from .checks import check_run_length
from .guards.out_of_memory import what_takes_less
from .memory import memory_at_hand
from .memory_estimate import ERROR, estimate_memory
from .options import DinoDetrTrainingArguments
from .precision import describe_device

logger = logging.get_logger(__name__)


def announce(
    options: DinoDetrTrainingArguments,
    model: DinoDetrForObjectDetection,
    steps: int,
    train_rows: Dataset,
    eval_rows: Dataset,
    epoch_length: int,
) -> None:
    """
    Say in one line what will be done: images, steps, batch, sizes, device, memory.

    A batch for which there is no memory is accumulated from smaller ones, unless it was said how it is to be; this too
    is in the line.

    Args:
        epoch_length: images that an epoch draws.

    Raises:
        ValueError: if there cannot be memory enough, with what takes less.
    """
    shortened = check_run_length(options, steps, options.forgiven)
    height, width = largest_size(train_rows, options)
    memory = _settle_memory(options, model, (height, width))
    if options.process_index != 0:
        return
    parts = [
        f"{len(train_rows):,} images to train on ({options.train_split})",
        f"{len(eval_rows):,} to evaluate on ({options.eval_split})",
        _describe_length(options, steps, epoch_length),
        _describe_batch(options),
        f"shortest edge {_range(options.image_sizes)}, the largest image {width} x {height}",
        describe_device(options),
        memory,
    ]
    print(f"Training: {'; '.join(parts)}.", flush=True)
    for sentence in shortened:
        logger.warning(sentence)


def largest_size(rows: Dataset, options: DinoDetrTrainingArguments) -> tuple[int, int]:
    """Return height and width of the largest image that is made of the rows'."""
    shortest, longest = max(options.image_sizes), options.max_image_size
    if options.augmentation == "large_scale_jitter":
        return shortest, shortest
    columns = rows.select_columns(["width", "height"])[:]
    width, height = (np.maximum(np.asarray(columns[name], dtype=np.float64), 1) for name in ("width", "height"))
    scale = np.minimum(shortest / np.minimum(width, height), longest / np.maximum(width, height))
    largest = int((width * height * scale**2).argmax())
    return round(float(height[largest] * scale[largest])), round(float(width[largest] * scale[largest]))


def _describe_length(options: DinoDetrTrainingArguments, steps: int, epoch_length: int) -> str:
    epochs = steps * options.total_batch_size / epoch_length
    sentence = f"{steps:,} steps ({epochs:.3g} epochs)"
    if options.steps_chosen:
        sentence += ", chosen by the number of images: --max_steps or --num_train_epochs says otherwise"
    return sentence


def _describe_batch(options: DinoDetrTrainingArguments) -> str:
    at_once, processes = options.per_device_train_batch_size, options.world_size
    sentence = f"{options.total_batch_size} images a step"
    factors = [(at_once, "at a time"), (options.gradient_accumulation_steps, "times"), (processes, "processes")]
    if options.gradient_accumulation_steps > 1 or processes > 1:
        sentence += f" ({', '.join(f'{count} {name}' for count, name in factors if count > 1 or name == 'at a time')})"
    return sentence


def _range(sizes: Iterable[int]) -> str:
    smallest, largest = min(sizes), max(sizes)
    return f"{smallest}" if smallest == largest else f"{smallest} to {largest}"


def _settle_memory(options: DinoDetrTrainingArguments, model: DinoDetrForObjectDetection, size: tuple[int, int]) -> str:
    """Return what is said of memory, and see that the run has enough."""
    at_hand = memory_at_hand(options.device)
    at_hand = float("inf") if at_hand is None else at_hand
    free = options.world_size == 1 and "gradient_accumulation_steps" not in options.given
    if free:
        _accumulate_as_before(options)
    expected = estimate_memory(options, model, size)
    note = ""
    if free and expected > at_hand and options.per_device_train_batch_size > 1:
        expected, note = _accumulate(options, model, size, at_hand)
    sentence = f"memory: about {_gib(expected)} expected, {_gib(at_hand)} at hand{note}"
    if expected * (1 - ERROR) > at_hand:
        raise ValueError(f"not enough {sentence}; {what_takes_less(options)}")
    if expected > at_hand and options.process_index == 0:
        logger.warning(f"This may need more memory than there is; if so, {what_takes_less(options)}")
    return sentence


def _accumulate_as_before(options: DinoDetrTrainingArguments) -> None:
    """Divide a resumed run's batches as they were, on whichever machine it goes on: sums keep their order."""
    if options.resume_from_checkpoint is None:
        return
    recipe = read_mapping(Path(options.resume_from_checkpoint).parent / RECIPE_YAML)
    parts = recipe.get("gradient_accumulation_steps", 1)
    if parts != 1 and options.total_batch_size % (parts * options.world_size) == 0:
        options.accumulate(parts)


def _accumulate(
    options: DinoDetrTrainingArguments, model: DinoDetrForObjectDetection, size: tuple[int, int], at_hand: float
) -> tuple[float, str]:
    """Make the step's batch of the fewest parts for which there is memory; what a step computes stays the same."""
    whole, before = options.total_batch_size, options.gradient_accumulation_steps
    for parts in (parts for parts in range(before + 1, whole + 1) if whole % parts == 0):
        options.accumulate(parts)
        if "per_device_eval_batch_size" not in options.given:
            at_once = min(options.per_device_eval_batch_size, options.per_device_train_batch_size)
            options.per_device_eval_batch_size = at_once
        expected = estimate_memory(options, model, size)
        if expected <= at_hand:
            break
    return expected, f", so gradient_accumulation_steps is {parts}"


def _gib(size: float) -> str:
    return "an unknown size" if size == float("inf") else f"{size / 2**30:.1f} GiB"
