"""Stopping with everything saved: when a scheduler asks for it, by SIGTERM or SIGUSR1, or a person, by Ctrl-C."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_byte
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from ..options import DinoDetrTrainingArguments
from .lock import unlock_folder

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later
INTERRUPTED_STATUS = 130  # as shells have it after Ctrl-C: a person stopped it, and no scheduler should go on

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has one
BY_SCHEDULER, BY_PERSON = 1, 2  # who asked; 0 if nobody
AGAIN = 0.5  # seconds after which Ctrl-C is a second one; `timeout`, for one, sends it twice at once


def outlive_signals(heeded: c_byte, _worker_id: int) -> None:
    """
    Let a data worker live on when a scheduler or Ctrl-C signals its whole group: the last step still needs it.

    The first SIGTERM passes while the run heeds signals (`heeded` is 1), and no longer: with that signal
    multiprocessing ends workers when Python exits. Ctrl-C is for the parent, which ends its workers.
    """
    for number in (*SIGNALS, signal.SIGINT):
        signal.signal(number, partial(_pass_once, heeded))


def _pass_once(heeded: c_byte, number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        return
    signal.signal(number, signal.SIG_DFL)
    if not heeded.value:
        os.kill(os.getpid(), number)


class Preempted(Exception):
    """
    Training stopped at a signal. Its last checkpoint goes on from there.

    Args:
        step: the last that was trained.
        exit_status: with which the process should end.
    """

    def __init__(self, step: int, exit_status: int):
        super().__init__(
            f"stopped by a signal at step {step}; go on with the same command and --resume_from_checkpoint latest"
        )
        self.exit_status = exit_status


class Preemption(TrainerCallback):
    """
    Ends training after the step in which a signal came, with a checkpoint.

    An evaluation takes too long for the time that schedulers give: one that is due, or under way, is made up for when
    the run is resumed. A second Ctrl-C ends the process at once; checkpoints get their names when they are whole.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)  # of the run
        self.asked = 0  # of this process: by whom
        self.agreed = 0  # known to all processes, and acted upon by all after the same step
        self.evaluation_due = False
        self._since = 0.0
        self._process = os.getpid()
        self._heeded = multiprocessing.RawValue("b", 0)  # data workers see it too

    @property
    def worker_init_fn(self) -> Callable[[int], None]:
        """What a data worker begins with, instead of transformers' seeding: samples bring their own seeds."""
        return partial(outlive_signals, self._heeded)

    @property
    def exit_status(self) -> int:
        return INTERRUPTED_STATUS if self.agreed == BY_PERSON else EXIT_STATUS

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are heeded inside this context, in the main thread; they do again what they did after it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with _handled([*SIGNALS, signal.SIGINT], self._ask):
            self._heeded.value = 1
            try:
                yield
            finally:
                self._heeded.value = 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data worker of an evaluation: forked, it has this handler too
            _pass_once(self._heeded, number, frame)
        elif number != signal.SIGINT:
            self.asked = max(self.asked, BY_SCHEDULER)
        elif self.asked == BY_PERSON:
            if time.monotonic() - self._since > AGAIN:
                self._end_at_once()
        else:
            self.asked, self._since = BY_PERSON, time.monotonic()
            _write_line("dino-detr: stopping after this step, with a checkpoint; Ctrl-C again ends at once")

    def _end_at_once(self) -> None:
        unlock_folder(self.folder)
        for child in multiprocessing.active_children():
            child.kill()
        _write_line("dino-detr: stopped at once by a second Ctrl-C; go on with --resume_from_checkpoint latest")
        os._exit(INTERRUPTED_STATUS)

    def on_step_end(
        self, args: DinoDetrTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.agreed:
            self.evaluation_due = control.should_evaluate
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: DinoDetrTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.agreed:
            # the Trainer ends the epoch when it stops in the midst of one, too
            ended = abs(state.epoch - round(state.epoch)) < 1e-6
            self.evaluation_due |= ended and control.should_evaluate
            control.should_evaluate, control.should_save = False, ended


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """
    Inside this context, but outside of `Preemption.listening`, a scheduler's signal ends the process with a line and
    the status that says "again". It is as when Python exits: what a run holds is given back.
    """

    def stop(number: int, _: FrameType | None) -> None:
        _write_line(f"dino-detr: stopped by {signal.Signals(number).name} before the first step or after the last")
        raise SystemExit(EXIT_STATUS)

    in_main_thread = threading.current_thread() is threading.main_thread()
    with _handled(SIGNALS if in_main_thread else [], stop):
        yield


@contextmanager
def _handled(signals: list[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    former = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, handler_before in former.items():
            signal.signal(number, signal.SIG_DFL if handler_before is None else handler_before)


def _write_line(line: str) -> None:
    """Write a line by the main process, past Python's buffer: a signal may come while that is being written."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"\n{line}\n".encode())
