"""A run that was cut off near its end: what was due is made up for, and what it leaves is put in place."""

from pathlib import Path

from transformers import TrainerState

from ..runs.names import EVALUATION_DUE, TRAINER_STATE_JSON
from .checkpointing.state import find_best, folder_to_leave, leaves_best, load_model, name_best
from .trainer import DetectionTrainer


def restore_if_finished(trainer: DetectionTrainer, checkpoint: Path) -> bool:
    """
    Tell whether a run was cut off after its last step. Then its weights, the best or the last, are in place.

    An evaluation that was due when it was cut off is made up for first: it may be the one that ends the run.
    """
    options = trainer.args
    trainer.state = state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_JSON))
    find_best(state, trainer.folder)
    if trainer.early_stopping is not None:
        trainer.early_stopping.restore(state)
    trainer.model.to(options.device)  # pyright: ignore[reportArgumentType]
    if (checkpoint / EVALUATION_DUE).exists():
        _evaluate_late(trainer, checkpoint)
    stopped = trainer.early_stopping is not None and trainer.early_stopping.exhausted
    if not stopped and state.global_step < (options.max_steps if options.max_steps > 0 else state.max_steps):
        return False
    best = Path(str(state.best_model_checkpoint)) if leaves_best(state, options) else checkpoint
    load_model(folder_to_leave(best, options), trainer.model)
    return True


def _evaluate_late(trainer: DetectionTrainer, checkpoint: Path) -> None:
    """Make the evaluation that was due when the checkpoint was saved in haste."""
    load_model(checkpoint, trainer.model)
    if trainer.average is not None:
        trainer.average.start(trainer.model, str(checkpoint))
    trainer._determine_best_metric(trainer.evaluate(), trial=None)
    name_best(trainer.state, trainer.folder)
    if trainer.is_world_process_zero():
        trainer.save_notes(checkpoint)
        (checkpoint / EVALUATION_DUE).unlink()
    trainer.accelerator.wait_for_everyone()
