"""An AP of about 0 is explained: in the log, and in the run folder's `diagnosis.txt`."""

from pathlib import Path

from datasets import Dataset
from transformers import TrainerState
from transformers.utils import logging

from ..data import class_names
from ..data.rows import values_of_objects
from ..data.samples import TrainingSamples
from ..evaluation.diagnosis import UNEXPLAINED_AP50, LearningRate, diagnose
from ..runs.names import DIAGNOSIS, partial_path

logger = logging.get_logger(__name__)

_FALLEN = 0.8  # of the first line's loss


def explain_zero_ap(
    folder: Path,
    state: TrainerState,
    ap50: float,
    detections: list[dict],
    references: list[dict],
    rows: Dataset,
    train_samples: TrainingSamples,
    at_end: bool,
    warmup_steps: int = 0,
    learning_rate: float | None = None,
) -> None:
    """
    Log a diagnosis and write it to `diagnosis.txt` if AP50 is about 0, though the training loss has fallen or training
    is over. A fault in it is reported and never stops training.

    Args:
        warmup_steps, learning_rate: the steps over which the learning rate rises, and what it rises to.
    """
    if ap50 >= UNEXPLAINED_AP50:
        return
    logged = [line for line in state.log_history if "loss" in line]
    loss = tuple(line["loss"] for line in logged[:1] + logged[1:][-1:]) or None  # a line is not its own successor
    if not at_end and (loss is None or loss[-1] >= _FALLEN * loss[0]):
        return
    rate = None
    if learning_rate is not None:
        rates = [line["learning_rate"] for line in logged if "learning_rate" in line]
        rate = LearningRate(state.global_step, warmup_steps, max(rates, default=None), learning_rate)
    try:
        diagnosis = diagnose(
            detections,
            references,
            annotation_ids=values_of_objects(rows, "id"),
            class_names=class_names(rows),
            trained_labels=set(values_of_objects(train_samples.rows, "category")),
            loss=loss,
            rate=rate,
        )
        heading = f"AP50 is {max(ap50, 0):.3f} at step {state.global_step}. What the evaluation saw:"
        text = f"{heading}\n{diagnosis}"
        logger.warning(text)
        partial_path(folder / DIAGNOSIS).write_text(text + "\n", encoding="utf-8")
        partial_path(folder / DIAGNOSIS).replace(folder / DIAGNOSIS)
    except Exception as fault:
        logger.warning(f"AP50 is about 0, and the diagnosis of it failed: {fault!r}")
