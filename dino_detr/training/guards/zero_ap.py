"""An AP of about 0 is explained: in the log, and in the run folder's `diagnosis.txt`."""

from transformers import TrainerState
from transformers.utils import logging

from ...data.rows import classes_with_objects
from ...data.samples import TrainingSamples
from ...evaluation.diagnosis import LearningRate
from ...evaluation.evaluate import Evaluation
from ...runs.names import DIAGNOSIS, partial_path
from ..options import DinoDetrTrainingArguments

logger = logging.get_logger(__name__)

_FALLEN = 0.8  # of the first line's loss


def explain_zero_ap(
    evaluation: Evaluation,
    options: DinoDetrTrainingArguments,
    state: TrainerState,
    train_samples: TrainingSamples,
    at_end: bool = False,
) -> None:
    """
    Log a diagnosis and write it to `diagnosis.txt` if AP50 is about 0, though the training loss has fallen or training
    is over (`at_end`). The main process does it. A fault in it is reported and never stops training.
    """
    if options.process_index > 0 or not evaluation.is_unexplained:
        return
    logged = [line for line in state.log_history if "loss" in line]
    loss = tuple(line["loss"] for line in logged[:1] + logged[1:][-1:]) or None  # a line is not its own successor
    if not at_end and (loss is None or loss[-1] >= _FALLEN * loss[0]):
        return
    rates = [line["learning_rate"] for line in logged if "learning_rate" in line]
    warmup_steps = options.get_warmup_steps(state.max_steps)
    rate = LearningRate(state.global_step, warmup_steps, max(rates, default=None), options.learning_rate)
    try:
        diagnosis = evaluation.diagnose(classes_with_objects(train_samples.rows), loss, rate)
        ap50 = max(evaluation.figures["AP50"], 0)
        text = f"AP50 is {ap50:.3f} at step {state.global_step}. What the evaluation saw:\n{diagnosis}"
        logger.warning(text)
        path = options.run_folder / DIAGNOSIS
        partial_path(path).write_text(text + "\n", encoding="utf-8")
        partial_path(path).replace(path)
    except Exception as fault:
        logger.warning(f"AP50 is about 0, and the diagnosis of it failed: {fault!r}")
