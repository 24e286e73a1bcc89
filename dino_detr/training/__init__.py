"""From a recipe to a run folder."""

from .optimizer import build_optimizer
from .options import DinoDetrTrainingArguments, parse_options
from .run import train

__all__ = ["DinoDetrTrainingArguments", "build_optimizer", "parse_options", "train"]
