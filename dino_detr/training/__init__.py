"""From a recipe to a run folder."""

from .optimizer import build_optimizer
from .options import DinoDetrTrainingArguments, parse_options
from .run import prepare, train
from .starting_point import load_for_fine_tuning
from .trainer import DetectionTrainer

__all__ = [
    "DetectionTrainer",
    "DinoDetrTrainingArguments",
    "build_optimizer",
    "load_for_fine_tuning",
    "parse_options",
    "prepare",
    "train",
]
