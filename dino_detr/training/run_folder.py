"""What a run leaves in its folder besides checkpoints."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.utils import logging

from .. import __version__
from ..evaluation import draw_plots
from ..runs.history import read_history
from ..runs.names import (
    ENVIRONMENT_JSON,
    EVALUATION_JSONL,
    METRICS_JSONL,
    RECIPE_YAML,
    partial_path,
)
from ..runs.record import local_sources
from .checkpointing.lock import check_lock
from .options import DinoDetrTrainingArguments

logger = logging.get_logger(__name__)


class RunFolder(TrainerCallback):
    """
    Keeps `recipe.yaml`, `environment.json`, `metrics.jsonl`, `evaluation.jsonl` and `plots/` of a run.

    A fault in drawing is reported and never stops training.
    """

    def __init__(self, options: DinoDetrTrainingArguments):
        self.folder = options.run_folder

    def on_train_begin(
        self, args: DinoDetrTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RECIPE_YAML).write_text(yaml.safe_dump(args.recipe), encoding="utf-8")
        (self.folder / ENVIRONMENT_JSON).write_text(json.dumps(_environment(args), indent=2), encoding="utf-8")
        for name in (METRICS_JSONL, EVALUATION_JSONL):
            self._forget_after(self.folder / name, state.global_step)

    def on_log(
        self,
        args: DinoDetrTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and "loss" in logs:
            check_lock(self.folder)
            self._append(METRICS_JSONL, {"step": state.global_step, **logs})

    def on_evaluate(
        self,
        args: DinoDetrTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or "eval_AP" not in metrics:
            return
        figures = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        self._append(EVALUATION_JSONL, {"step": state.global_step, "epoch": state.epoch, **figures})
        try:
            draw_plots(self.folder)
        except Exception as fault:
            logger.warning(f"The plots could not be drawn: {fault!r}")

    def _forget_after(self, path: Path, step: int) -> None:
        """Drop the lines of steps that a resumed run will make again, and half of one that a kill left."""
        if not path.exists():
            return
        kept = [json.dumps(line) + "\n" for line in read_history(path) if line["step"] <= step]
        temporary = partial_path(path)
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with open(self.folder / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _environment(options: DinoDetrTrainingArguments) -> dict[str, Any]:
    packages = ("torch", "torchvision", "transformers", "accelerate", "datasets", "timm", "pycocotools")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
        "processes": options.world_size,
        "threads": torch.get_num_threads(),
        "local_paths": local_sources(options.recipe),
        "versions": {"dino-detr": __version__} | {name: version(name) for name in packages},
    }
