"""The moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..runs.names import FIGURES
from .sharding import local


def figure_of_average(name: str) -> str:
    """
    Return the name of a figure of COCO's as the averaged weights have it: `AP50` and `eval_AP50` become `ema_AP50`.

    Where there is an average it is what a run leaves, so the best is chosen by its figures. Other names are left.
    """
    figure = name.removeprefix("eval_").removeprefix("ema_")
    return f"ema_{figure}" if figure in FIGURES else name


class WeightAverage:
    """
    Exponential moving average of a model's trainable parameters: after each step `a = decay * a + (1 - decay) * p`.

    Args:
        model: whose parameters, as they are now, the average starts from. Of sharded ones, each process averages its
            part.
        decay: 0..1; the reference has 0.999 where it is on.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters: list[Tensor] = [local(p.detach()) for p in model.parameters() if p.requires_grad]
        self.averages = [p.clone() for p in self.parameters]

    def update(self) -> None:
        """After a step of the optimiser."""
        torch._foreach_lerp_(self.averages, self.parameters, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages for weights inside this context, and its own again after it."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        """The averages become the model's weights, and these the averages."""
        for parameter, average in zip(self.parameters, self.averages):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
