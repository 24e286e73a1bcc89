"""`push_to_hub`: a run's best weights go to the Hub while it trains."""

import json
import os
import queue
import shutil
import threading
import time
from pathlib import Path

from huggingface_hub import HfApi
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from ..hub.push import checkpoint_files, open_repository, push_run
from ..runs.history import read_history
from ..runs.names import (
    ENVIRONMENT_JSON,
    EVALUATION_JSONL,
    FIGURES,
    FIGURES_JSON,
    METRICS_JSONL,
    PLOTS,
    RECIPE_YAML,
    STAGED,
)
from .checkpointing.state import folder_to_leave
from .options import DinoDetrTrainingArguments

logger = logging.get_logger(__name__)

RETRY_AFTER = (5, 30)  # seconds


class Uploads:
    """
    The best weights at each improvement, in the background, and the finished run.

    A fault is said once and never ends training. What could not be uploaded is tried again twice, then with the next
    checkpoint, then when the run ends. For the main process.
    """

    def __init__(self, options: DinoDetrTrainingArguments):
        self.options = options
        self.folder = Path(options.output_dir)
        self.repo_id = options.hub_model_id or self.folder.absolute().name
        self._step: int | None = None  # of the weights last offered, unless that failed
        self._warned = False
        self._queue: queue.Queue[Path] = queue.Queue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Make the repository, so that what is wrong with name or token is known before the first step."""
        shutil.rmtree(self.folder / STAGED, ignore_errors=True)  # of a run that was killed
        try:
            open_repository(HfApi(token=self.options.hub_token), self.repo_id, self.options.hub_private_repo)
        except Exception as fault:
            self._warn_once(fault)

    def offer(self, state: TrainerState) -> None:
        """Upload the best checkpoint, if it is new; while another is under way, that waits for the next checkpoint."""
        step, best = state.best_global_step, state.best_model_checkpoint
        busy = self._queue.unfinished_tasks > 0 and not self.options.hub_always_push
        if self.options.hub_strategy == HubStrategy.END or not best or step is None or step == self._step or busy:
            return
        try:
            staged = self._stage(Path(best), step)
        except Exception as fault:
            self._warn_once(fault)
            return
        self._step = step
        self._queue.put(staged)
        if self._thread is None:  # a daemon: a run that is told to stop does not wait for it
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Upload the run folder, after what is under way."""
        self._queue.join()
        shutil.rmtree(self.folder / STAGED, ignore_errors=True)
        fault = self._push(self.folder)
        if fault is None:
            logger.info(f"{self.folder} is on the Hub: {self.repo_id}")
        else:
            logger.warning(
                f"push_to_hub: {fault}. The run is whole: `dino-detr push {self.folder} {self.repo_id}` uploads it"
            )

    def _stage(self, checkpoint: Path, step: int) -> Path:
        """
        Make a run folder of its own of the checkpoint and the run's record so far.

        Weights are links, for the checkpoint may be deleted meanwhile. The record is copied, for it grows.
        """
        staged = self.folder / STAGED / str(step)
        staged.mkdir(parents=True)
        for path in checkpoint_files(folder_to_leave(checkpoint, self.options)):
            try:
                os.link(path, staged / path.name)
            except OSError:  # not on every file system
                shutil.copyfile(path, staged / path.name)
        for name in (RECIPE_YAML, ENVIRONMENT_JSON, METRICS_JSONL, EVALUATION_JSONL):
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, staged / name)
        if (self.folder / PLOTS).exists():
            shutil.copytree(self.folder / PLOTS, staged / PLOTS)
        prefix = "ema_" if self.options.ema_decay is not None else ""
        for line in read_history(self.folder / EVALUATION_JSONL):
            if line["step"] == step:
                figures = {"step": step} | {name: line[prefix + name] for name in FIGURES}
                (staged / FIGURES_JSON).write_text(json.dumps(figures), encoding="utf-8")
        return staged

    def _work(self) -> None:
        while True:
            staged = self._queue.get()
            fault = self._push(staged)
            if fault is not None:
                self._step = None
                self._warn_once(fault)
            shutil.rmtree(staged, ignore_errors=True)
            self._queue.task_done()

    def _push(self, folder: Path) -> Exception | None:
        """Upload a folder. Returns what was wrong in the end, or None."""
        for wait in (0, *RETRY_AFTER):
            time.sleep(wait)
            fault = None
            try:
                push_run(folder, self.repo_id, self.options.hub_private_repo, token=self.options.hub_token)
            except Exception as error:
                fault = error
            if not isinstance(fault, ConnectionError):  # done, or another try would not mend it
                break
        return fault

    def _warn_once(self, fault: Exception) -> None:
        if not self._warned:
            logger.warning(f"push_to_hub: {fault}. Training goes on; it is tried again at checkpoints and at the end")
        self._warned = True
