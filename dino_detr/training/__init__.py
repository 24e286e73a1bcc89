"""Training: the way from a recipe to a run folder."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .optimizer import build_optimizer

if TYPE_CHECKING:
    from .options import DinoDetrTrainingArguments, parse_options
    from .run import prepare, train
    from .starting_point import load_for_fine_tuning
    from .trainer import DetectionTrainer

# imported when they are asked for: with the Trainer come data sets, plots and metrics, two seconds and 150 MiB
_ON_DEMAND = {
    "DetectionTrainer": "trainer",
    "DinoDetrTrainingArguments": "options",
    "load_for_fine_tuning": "starting_point",
    "parse_options": "options",
    "prepare": "run",
    "train": "run",
}

__all__ = [
    "DetectionTrainer",
    "DinoDetrTrainingArguments",
    "build_optimizer",
    "load_for_fine_tuning",
    "parse_options",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(f".{_ON_DEMAND[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
