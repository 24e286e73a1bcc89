"""Where a run may write: in a folder of its own that has room for it; never over another run."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers.utils import logging

from ...runs.names import CONFIG_JSON, EVALUATION_JSONL, METRICS_JSONL
from ..adapters import adapted_weights
from ..options import DinoDetrTrainingArguments
from .files import find_checkpoint, find_damage, find_inexact, numbered_checkpoints
from .lock import FolderInUse, lock_folder, unlock_folder

logger = logging.get_logger(__name__)


def claim_output_dir(options: DinoDetrTrainingArguments) -> str | None:
    """
    Make `output_dir` ready and take it for this run, before anything is written there (see `lock.lock_folder`).

    The main process does it; what comes of it comes of it on all.

    Returns:
        The checkpoint to resume from, if `resume_from_checkpoint` asks for one and there is one.

    Raises:
        FileExistsError: if the folder is another run's that is going on, or holds a run, and neither
            `resume_from_checkpoint` nor `overwrite` was given.
        FileNotFoundError: if there is no such checkpoint, or none that can be resumed from.
        OSError: if the folder cannot be written to.
        ValueError: if the named checkpoint is damaged.
    """
    checkpoint = fault = None
    if options.process_index == 0:
        try:
            checkpoint = _claim(options)
        except (OSError, ValueError) as error:
            fault = error
    if options.world_size > 1:
        checkpoint, fault = broadcast_object_list([checkpoint, fault])
    if fault is not None:
        raise fault
    return checkpoint


def release_output_dir(options: DinoDetrTrainingArguments) -> None:
    """Let other runs have the folder."""
    unlock_folder(options.run_folder)


def _claim(options: DinoDetrTrainingArguments) -> str | None:
    folder = options.run_folder
    _take(folder)
    try:
        if _holds_a_run(folder) and not _goes_on(options):
            if not options.overwrite:
                raise FileExistsError(
                    f"{folder} holds a run or a checkpoint already: go on with --resume_from_checkpoint latest, choose "
                    "another --output_dir, or start anew with --overwrite (the old one is renamed)"
                )
            _set_aside(folder)
            _take(folder)
        checkpoint = _find_start(folder, options.resume_from_checkpoint)
    except BaseException:
        unlock_folder(folder)
        raise
    if checkpoint is None:
        return None
    for difference in find_inexact(checkpoint, options.world_size, options.ema_decay is not None, options.fp16):
        logger.warning(f"{checkpoint} goes on, but not bit for bit: {difference}")
    _set_later_aside(folder, checkpoint)
    return str(checkpoint)


def _take(folder: Path) -> None:
    try:
        lock_folder(folder)
    except FolderInUse:
        raise
    except OSError as fault:
        raise OSError(f"output_dir: cannot write to {folder} ({fault.strerror}); choose another") from fault


def _goes_on(options: DinoDetrTrainingArguments) -> bool:
    """Whether the run in the folder is the one to resume; a checkpoint from elsewhere may be another run's."""
    asked = options.resume_from_checkpoint
    return asked == "latest" or (asked is not None and _is_within(Path(asked), options.run_folder))


def _is_within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _find_start(folder: Path, asked: str | None) -> Path | None:
    """The checkpoint that is asked for, by its place or as "latest"."""
    if asked is None:
        return None
    if asked == "latest":
        checkpoint = find_checkpoint(folder)
        if checkpoint is None and (folder / CONFIG_JSON).exists():
            raise FileExistsError(f"{folder} holds a finished run without checkpoints: choose another --output_dir")
        if checkpoint is None:
            logger.warning(f"{folder} holds no checkpoint yet: the run starts from its first step")
        return checkpoint
    checkpoint = Path(asked)
    if not checkpoint.is_dir():
        raise FileNotFoundError(
            f"resume_from_checkpoint: there is no folder {asked}; `latest` goes on with the newest in output_dir"
        )
    fault = find_damage(checkpoint)
    if fault is not None:
        raise ValueError(f"{asked} cannot be resumed from: {fault}")
    return checkpoint


def _set_later_aside(folder: Path, checkpoint: Path) -> None:
    """What a run made after the checkpoint from which it is made again: else "latest" would go on with that."""
    there = numbered_checkpoints(folder)
    step = next((step for step, path in there.items() if path.resolve() == checkpoint.resolve()), None)
    for later, path in there.items():
        if step is not None and later > step and find_damage(path) is None:
            other = _rename(path)
            logger.warning(f"{path} is of after step {step}, from which the run goes on: it is now {other}")


def check_space(options: DinoDetrTrainingArguments, model: nn.Module) -> None:
    """
    Check that the disk has room for the checkpoints kept, the one being written, and the weights that are left.

    Raises:
        OSError: if not, with how much is needed.
    """
    folder, weights = options.run_folder, _size(model.parameters())
    needed = weights
    if options.save_strategy != "no":
        there = len(list(folder.glob("checkpoint-*")))
        kept = max(options.save_total_limit or 1, 1) + options.load_best_model_at_end  # the best may be an older one
        needed += max(kept + 1 - there, 1) * checkpoint_size(options, model)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"output_dir: the run needs {needed / 2**20:,.0f} MiB for its checkpoints, and {folder} has "
            f"{free / 2**20:,.0f} MiB: make room, lower save_total_limit, or choose another"
        )


def checkpoint_size(options: DinoDetrTrainingArguments, model: nn.Module) -> int:
    """
    Return the bytes of a checkpoint: weights, AdamW's two moments of the trained ones, and the average.

    What adapters stand on is there twice: merged, and as it was.
    """
    weights = _size(model.parameters()) + _size(adapted_weights(model).values())
    moments = 2 * _size(p for p in model.parameters() if p.requires_grad)
    return weights * (1 + (options.ema_decay is not None)) + (0 if options.save_only_model else moments)


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _holds_a_run(folder: Path) -> bool:
    taken = any((folder / name).exists() for name in (METRICS_JSONL, EVALUATION_JSONL, CONFIG_JSON))
    return taken or any(folder.glob("checkpoint-*"))


def _set_aside(folder: Path) -> None:
    other = _rename(folder)
    unlock_folder(folder, now_at=other)
    logger.warning(f"overwrite: the run in {folder} is now in {other}")


def _rename(folder: Path) -> Path:
    """Rename a folder to the first of `<folder>.old-1`, `-2`, ... that is free."""
    number = 1
    while (other := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return folder.rename(other)
