"""What a resumed run needs: weights, optimiser, schedule and the Trainer's own notes, written and read again."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from ...image_processing_dino_detr import DinoDetrImageProcessor
from ...modeling_dino_detr import DinoDetrForObjectDetection
from ...runs.names import AVERAGE, TRAINER_STATE_JSON, checkpoint_folder, partial_path
from ..adapters import has_adapters, merge_weights, save_adapters, unmerged_weights
from ..options import DinoDetrTrainingArguments
from ..sharding import full_state_dict, load_optimizer, load_weights, unsharded_class

logger = logging.get_logger(__name__)


def save_model(
    folder: Path,
    model: DinoDetrForObjectDetection,
    processor: DinoDetrImageProcessor,
    should_save: bool,
    options: DinoDetrTrainingArguments | None = None,
) -> None:
    """
    Write weights, configuration and processor. Every process calls this; those that should, save.

    Args:
        options: are pickled beside them, as the Trainer does, but without their secrets.
    """
    weights = full_state_dict(model.state_dict())
    if not should_save:
        return
    with unsharded_class(model):
        model.save_pretrained(folder, state_dict=merge_weights(model, weights))
    if has_adapters(model):
        save_adapters(folder, model, weights)
    processor.save_pretrained(folder)
    if options is not None:
        torch.save(_without_tokens(options), folder / TRAINING_ARGS_NAME)


def load_model(folder: Path, model: DinoDetrForObjectDetection) -> None:
    """
    Load weights by way of `from_pretrained`.

    The Trainer reads the file as it is, but inside the backbone its names are not this version's. Those weights would
    stay behind, with no more than a warning.
    """
    loaded = DinoDetrForObjectDetection.from_pretrained(folder, dtype=model.dtype)
    load_weights(model, unmerged_weights(folder, model, loaded.state_dict()))


def save_optimizer(
    folder: Path,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    should_save: bool,
) -> None:
    """Write the same files whether parameters are sharded or not. Every process calls this; those that should, save."""
    state = full_state_dict(optimizer.state_dict())
    if should_save:
        torch.save(state, folder / OPTIMIZER_NAME)
        torch.save(scheduler.state_dict(), folder / SCHEDULER_NAME)


def restore_optimizer(
    folder: Path, optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> None:
    """Read what `save_optimizer` wrote, by way of the CPU: transformers 5.17 cannot load on several CPU processes."""
    load_optimizer(optimizer, torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True))
    scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, map_location="cpu", weights_only=True))


def save_trainer_state(folder: Path, state: TrainerState, parts: Iterable[object]) -> None:
    """
    Write the Trainer's notes, at once or not at all.

    Args:
        parts: callbacks and control; the state of those that have one is noted too.
    """
    notes: Any = state.stateful_callbacks
    for part in parts:
        if isinstance(part, ExportableState):
            notes[type(part).__name__] = part.state()
    path = folder / TRAINER_STATE_JSON
    state.save_to_json(str(partial_path(path)))
    partial_path(path).replace(path)


def name_best(state: TrainerState, run_folder: Path) -> None:
    """Note the best checkpoint, on every process: each loads the best weights at the end."""
    if not state.best_global_step:
        return
    best = checkpoint_folder(run_folder, state.best_global_step)
    if state.best_global_step == state.global_step or best.exists():
        state.best_model_checkpoint = str(best)


def find_best(state: TrainerState, run_folder: Path) -> None:
    """Find the best checkpoint of a run that goes on: in this folder, which may have been moved, or not at all."""
    name_best(state, run_folder)
    best = state.best_model_checkpoint
    if best is not None and not Path(best).is_dir():
        logger.warning(f"{best}, the best checkpoint so far, is not there any more: the best is looked for anew")
        state.best_model_checkpoint = state.best_global_step = state.best_metric = None


def leaves_best(state: TrainerState, options: DinoDetrTrainingArguments) -> bool:
    """Tell whether the weights that a run leaves are those of its best checkpoint, not the last."""
    return options.load_best_model_at_end and state.best_model_checkpoint is not None


def step_to_leave(state: TrainerState, options: DinoDetrTrainingArguments) -> int:
    """Return the step after which the weights that a run leaves were as they are."""
    return (leaves_best(state, options) and state.best_global_step) or state.global_step


def folder_to_leave(checkpoint: Path, options: DinoDetrTrainingArguments) -> Path:
    """Return the folder of the weights that a run leaves, if this is its best checkpoint: the average, if there is."""
    return checkpoint if options.ema_decay is None else checkpoint / AVERAGE


def _without_tokens(options: DinoDetrTrainingArguments) -> DinoDetrTrainingArguments:
    """Return a copy that may be written to a file: options that end in `_token` are None."""
    safe = copy.copy(options)
    for name in vars(options):
        if name.endswith("_token"):
            setattr(safe, name, None)
    return safe
