"""All processes tell one another a few numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed


class Exchange:
    """
    Small numbers of every process for every process, by way of the CPU: no device is waited for.

    Args:
        world_size: how many processes there are.
    """

    def __init__(self, world_size: int):
        self.world_size = world_size
        self._group: Any = None  # of all processes

    def __call__(self, numbers: Sequence[int]) -> list[list[int]]:
        """Return what each process said, by rank, when all have said it. Each says as many numbers."""
        if self.world_size == 1:
            return [list(numbers)]
        if self._group is None:
            self._group = distributed.new_group(backend="gloo")
        own = torch.tensor(numbers)
        gathered = [torch.empty_like(own) for _ in range(self.world_size)]
        distributed.all_gather(gathered, own, group=self._group)
        return [each.tolist() for each in gathered]
