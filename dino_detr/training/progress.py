"""What the terminal shows of a run; the rest is in the run folder."""

import logging as python_logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState
from transformers.utils import logging

from .options import DinoDetrTrainingArguments


@contextmanager
def without_bars_of_weights() -> Iterator[None]:
    """Leave out transformers' bars of reading and writing weights, one for each checkpoint."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def without_load_report() -> Iterator[None]:
    """Leave out transformers' table of weights that do not fit, where we say ourselves what becomes of them."""
    loader = python_logging.getLogger("transformers.modeling_utils")

    def is_other(record: python_logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loader.addFilter(is_other)  # (with a higher level of its own, the logger has more checked and said)
    try:
        yield
    finally:
        loader.removeFilter(is_other)


class ProgressBar(ProgressCallback):
    """One bar with the loss and the best figure so far, seconds per step and time left; a line per evaluation."""

    def __init__(self):
        super().__init__()
        self.shown: dict[str, str] = {}

    def on_train_begin(
        self, args: DinoDetrTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.current_step = state.global_step
        if self.training_bar is not None:  # a resumed run has not made its first steps in no time
            self.training_bar.initial = self.training_bar.n = self.training_bar.last_print_n = state.global_step
            self._show_best(args, state)

    def on_log(
        self,
        args: DinoDetrTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if self.training_bar is not None and "loss" in logs:
            self.shown["loss"] = f"{logs['loss']:.4g}"
            self._show_best(args, state)

    def on_evaluate(
        self,
        args: DinoDetrTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        super().on_evaluate(args, state, control, **kwargs)
        if self.training_bar is None:
            return
        names = dict.fromkeys(("AP", "AP50", "ema_AP", "ema_AP50", _best_figure(args), "seconds"))
        figures = {name: metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}
        line = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "seconds")
        self.training_bar.write(f"step {state.global_step}: {line} ({figures.get('seconds', 0):.0f} s)")

    def _show_best(self, args: DinoDetrTrainingArguments, state: TrainerState) -> None:
        assert self.training_bar is not None
        if state.best_metric is not None:
            self.shown[f"best {_best_figure(args)}"] = f"{state.best_metric:.3f}"
        self.training_bar.set_postfix(self.shown, refresh=False)


def _best_figure(options: DinoDetrTrainingArguments) -> str:
    """Return the figure by which the best weights are chosen."""
    return (options.metric_for_best_model or "AP").removeprefix("eval_")
