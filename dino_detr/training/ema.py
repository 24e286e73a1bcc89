"""The moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..runs.names import AVERAGE
from .checkpointing.state import load_model
from .sharding import local_shard


class WeightAverage(TrainerCallback):
    """
    Exponential moving average of a model's trainable parameters: after each step `a = decay * a + (1 - decay) * p`.

    Args:
        decay: 0..1; the reference has 0.999 where it is on.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.parameters: list[Tensor] = []  # of sharded ones, each process averages its part
        self.averages: list[Tensor] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.start(kwargs["model"], args.resume_from_checkpoint)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.update()

    @property
    def started(self) -> bool:
        return bool(self.parameters)

    def start(self, model: DinoDetrForObjectDetection, checkpoint: str | None = None) -> None:
        """Start the moving average from the current weights, or restore it from `checkpoint/ema`."""
        self.parameters = [local_shard(p.detach()) for p in model.parameters() if p.requires_grad]
        self.averages = [p.clone() for p in self.parameters]
        if checkpoint is not None and (Path(checkpoint) / AVERAGE).is_dir():  # (else `find_inexact` has said so)
            with self.applied():
                load_model(Path(checkpoint) / AVERAGE, model)

    def update(self) -> None:
        """Take the weights of a step that was made into the average."""
        lerp: Any = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
        lerp(self.averages, self.parameters, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside this context the model has the averages for weights. It has its own again after it."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        """Make the averages the model's weights, and these the averages."""
        for parameter, average in zip(self.parameters, self.averages):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
