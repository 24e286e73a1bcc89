"""Stopping when a scheduler asks for it, by SIGTERM or SIGUSR1, with everything saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainerCallback

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later
EVALUATION_DUE = "evaluation_due"  # a file in a checkpoint that was saved in haste, before its step was evaluated


SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has one


def outlive_first_signal(_worker_id: int) -> None:
    """For data workers: schedulers signal them too, but the last step still needs them."""
    for number in SIGNALS:
        signal.signal(number, lambda number, _: signal.signal(number, signal.SIG_DFL))


class Preempted(Exception):
    """Training stopped at a signal; its last checkpoint goes on from there."""


class Preemption(TrainerCallback):
    """
    Ends training after the step in which a signal came, with a checkpoint.

    An evaluation takes too long for the time that schedulers give: one that is due, or under way, is made up for when
    the run is resumed.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.asked = False  # of this process
        self.agreed = False  # known to all processes, and acted upon by all after the same step
        self.evaluation_due = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are heeded inside this context, in the main thread; they do again what they did after it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _ask(self, *_):
        self.asked = True

    def on_step_end(self, args, state, control, **kwargs):
        if self.agreed:
            self.evaluation_due = control.should_evaluate
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.agreed:
            # the Trainer ends the epoch when it stops in the midst of one, too
            ended = abs(state.epoch - round(state.epoch)) < 1e-6
            self.evaluation_due |= ended and control.should_evaluate
            control.should_evaluate, control.should_save = False, ended
