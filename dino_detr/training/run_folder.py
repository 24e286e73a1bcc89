"""What a run leaves in its folder besides checkpoints."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from datasets import Image
from transformers import TrainerCallback
from transformers.utils import logging

from .. import __version__
from ..data.decoding import decode_image
from ..evaluation import draw_detections, draw_plots
from ..evaluation.detections import detect
from ..evaluation.history import read_history
from ..evaluation.pictures import make_grid
from ..hub.run_record import local_sources
from .options import DinoDetrTrainingArguments

logger = logging.get_logger(__name__)


class RunFolder(TrainerCallback):
    """
    Keeps `recipe.yaml`, `environment.json`, `metrics.jsonl`, `evaluation.jsonl` and `plots/` of a run.

    A fault in drawing is reported and never stops training.
    """

    def __init__(self, options: DinoDetrTrainingArguments):
        self.folder = Path(options.output_dir)

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(args.recipe))
        (self.folder / "environment.json").write_text(json.dumps(_environment(args), indent=2))
        for name in ("metrics.jsonl", "evaluation.jsonl"):
            self._forget_after(self.folder / name, state.global_step)

    def on_log(self, args, state, control, logs, **kwargs):
        if state.is_world_process_zero and "loss" in logs:
            self._append("metrics.jsonl", {"step": state.global_step, **logs})

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if not state.is_world_process_zero or "eval_AP" not in metrics:
            return
        figures = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        self._append("evaluation.jsonl", {"step": state.global_step, "epoch": state.epoch, **figures})
        try:
            draw_plots(self.folder)
        except Exception as fault:
            logger.warning(f"The plots could not be drawn: {fault!r}")

    def _forget_after(self, path: Path, step: int) -> None:
        """Without the lines of steps that a resumed run will make again, nor half of one that a kill left."""
        if not path.exists():
            return
        kept = [json.dumps(line) + "\n" for line in read_history(path) if line["step"] <= step]
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text("".join(kept))
        temporary.replace(path)

    def _append(self, name: str, line: dict) -> None:
        with open(self.folder / name, "a") as file:
            file.write(json.dumps(line) + "\n")


def _environment(args) -> dict:
    packages = ("torch", "torchvision", "transformers", "accelerate", "datasets", "timm", "pycocotools")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
        "processes": args.world_size,
        "threads": torch.get_num_threads(),
        "local_paths": local_sources(args.recipe),
        "versions": {"dino-detr": __version__} | {name: version(name) for name in packages},
    }


def draw_sample_detections(model, processor, rows, folder: Path, count: int = 12, threshold: float = 0.3) -> None:
    """`plots/detections.png`: the first rows of a data set with what the model finds in them."""
    model.eval()
    count = min(count, len(rows))
    found = {detections["image_id"]: detections for detections in detect(model, processor, rows, range(count))}
    tiles = []
    image_ids = rows.select_columns(["image_id"])[:count]["image_id"]
    readable = [index for index, image_id in enumerate(image_ids) if image_id in found]
    for row in rows.select(readable).cast_column("image", Image(decode=False)):
        detections = found[row["image_id"]]
        keep = detections["scores"] > threshold
        kept = {name: detections[name][keep] for name in ("scores", "labels", "boxes")}
        tiles.append(draw_detections(decode_image(row["image"]), kept, model.config.id2label))
    if not tiles:
        return
    (folder / "plots").mkdir(exist_ok=True)
    make_grid(tiles).save(folder / "plots" / "detections.png")
