"""Where a run may write: in a folder of its own that has room for it; never over another run."""

import shutil
import tempfile
from pathlib import Path

from torch import nn
from transformers.utils import logging

from .checkpoints import find_checkpoint, find_damage
from .options import DinoDetrTrainingArguments

logger = logging.get_logger(__name__)


def claim_output_dir(options: DinoDetrTrainingArguments) -> str | None:
    """
    Make `output_dir` ready.

    Returns:
        The checkpoint to resume from, if `resume_from_checkpoint` asks for one and there is one.

    Raises:
        FileExistsError: if the folder holds a run, and neither `resume_from_checkpoint` nor `overwrite` was given.
        FileNotFoundError: if there is no such checkpoint, or none that can be read.
        OSError: if the folder cannot be written to.
        ValueError: if the named checkpoint is damaged.
    """
    folder, asked = Path(options.output_dir), options.resume_from_checkpoint
    with options.main_process_first(local=False, desc="claiming the output folder"):
        if asked is None and _holds_a_run(folder):
            if not options.overwrite:
                raise FileExistsError(
                    f"{folder} holds a run or a checkpoint already: go on with --resume_from_checkpoint latest, choose "
                    "another --output_dir, or start anew with --overwrite (the old one is renamed)"
                )
            if options.process_index == 0:
                _set_aside(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\0")
        except OSError as fault:
            raise OSError(f"output_dir: cannot write to {folder} ({fault.strerror}); choose another") from fault
    if asked == "latest":
        checkpoint = find_checkpoint(folder)
        if checkpoint is None and (folder / "config.json").exists():
            raise FileExistsError(f"{folder} holds a finished run without checkpoints: choose another --output_dir")
        if checkpoint is None:
            logger.warning(f"{folder} holds no checkpoint yet: the run starts from its first step")
            return None
        return str(checkpoint)
    if asked is not None:
        if not Path(asked).is_dir():
            raise FileNotFoundError(f"resume_from_checkpoint: there is no folder {asked}")
        fault = find_damage(Path(asked))
        if fault is not None:
            raise ValueError(f"{asked} cannot be resumed from: {fault}")
    return asked


def check_space(options: DinoDetrTrainingArguments, model: nn.Module) -> None:
    """
    That the disk has room for the checkpoints the run keeps, the one being written, and the weights it leaves.

    Raises:
        OSError: if not, with how much is needed.
    """
    folder, weights = Path(options.output_dir), _size(model.parameters())
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
    """In bytes: the weights, AdamW's two moments of those that are trained, and the average's weights."""
    weights = _size(model.parameters())
    moments = 2 * _size(p for p in model.parameters() if p.requires_grad)
    return weights * (1 + (options.ema_decay is not None)) + (0 if options.save_only_model else moments)


def _size(parameters) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _holds_a_run(folder: Path) -> bool:
    taken = any((folder / name).exists() for name in ("metrics.jsonl", "evaluation.jsonl", "config.json"))
    return taken or any(folder.glob("checkpoint-*"))


def _set_aside(folder: Path) -> None:
    number = 1
    while (other := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(other)
    logger.warning(f"overwrite: the run in {folder} is now in {other}")
