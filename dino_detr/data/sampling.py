"""The order of training samples."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from .samples import TrainingSamples

_WINDOW = 128  # batches; the more, the less padding, and the more alike in scale are the images of a batch


class SizeGroupedSampler(Sampler[int]):
    """
    A random order, every sample once, in which the images of a batch are of nearly one size after augmentation.

    A batch is padded to its tallest and its widest image; the reference groups its images, upright or not, for the same
    reason. Here a random order is cut into windows of up to 128 batches, the samples of each window are halved by
    height or width until batches are left, and all batches are shuffled. What does not fill a batch comes last. The
    order depends on the samples' (seed, epoch) alone.

    Args:
        samples: whose epoch is the order's too. (accelerate tells the epoch to a sampler or to the data set, never to
            both.)
        batch_size: images of a step, whatever the number of processes: each takes its part of them.
    """

    def __init__(self, samples: TrainingSamples, batch_size: int):
        self.samples, self.batch_size = samples, batch_size

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(hash((self.samples.seed, self.samples.epoch)) % 2**63)
        order = torch.randperm(len(self), generator=generator)
        count = len(self) // self.batch_size
        if count:
            sides = self.samples.draw_sizes().double().log()
            # two windows at least, or images of fixed sizes would always share their batches
            window = min(_WINDOW, math.ceil(count / 2)) * self.batch_size
            windows = order[: count * self.batch_size].split(window)
            batches = [batch for window in windows for batch in self._halve(window, sides)]
            for batch in torch.randperm(count, generator=generator).tolist():
                yield from batches[batch].tolist()
        yield from order[count * self.batch_size :].tolist()

    def _halve(self, samples: Tensor, sides: Tensor) -> list[Tensor]:
        """Batches of the samples, split in two by the side in which they differ more, again and again."""
        count = len(samples) // self.batch_size
        if count == 1:
            return [samples]
        side = int(sides[samples].std(0).argmax())
        ascending = samples[sides[samples, side].argsort(stable=True)]
        half = count // 2 * self.batch_size
        return self._halve(ascending[:half], sides) + self._halve(ascending[half:], sides)
