"""The order of training samples."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from .repeating import count_repeats, number_of_samples
from .samples import TrainingSamples

_WINDOW = 128  # batches; the more, the less padding, and the more alike in scale are the images of a batch

_ITERATED = 10_000  # indices that are Python's numbers at a time


class SizeGroupedSampler(Sampler[int]):
    """
    A random order in which the images of a batch are of nearly one size after augmentation.

    Every sample comes once, or as often as the samples' `factors` say: the second time in an epoch an image is sample
    `len(samples) + i`, augmented in another way than sample `i`, and so on.

    A batch is padded to its tallest and its widest image; the reference groups its images, upright or not, for the same
    reason. Here a random order is cut into windows of up to 128 batches, the samples of each window are halved by
    height or width until batches are left, and all batches are shuffled. What does not fill a batch comes last. The
    order depends on the samples' (seed, epoch) alone. It takes 16 bytes a sample while an epoch lasts.

    Args:
        samples: whose epoch is the order's too. (accelerate tells the epoch to a sampler or to the data set, never to
            both.)
        batch_size: images of a step, whatever the number of processes: each takes its part of them.
    """

    def __init__(self, samples: TrainingSamples, batch_size: int):
        self.samples, self.batch_size = samples, batch_size

    def __len__(self) -> int:
        factors = self.samples.factors
        return len(self.samples) if factors is None else number_of_samples(factors)

    def __iter__(self) -> Iterator[int]:
        epoch = self.samples.epoch
        generator = torch.Generator().manual_seed(hash((self.samples.seed, epoch)) % 2**63)
        indices = self._draw_indices(generator)
        order = indices[torch.randperm(len(self), generator=generator)]
        count = len(self) // self.batch_size
        in_batches, rest = order[: count * self.batch_size], order[count * self.batch_size :]
        # two windows at least, or images of fixed sizes would always share their batches
        in_window = max(1, min(_WINDOW, math.ceil(count / 2)))
        windows, is_grouped = in_batches.split(in_window * self.batch_size), set()
        for some in torch.randperm(count, generator=generator).split(_ITERATED):
            for batch in some.tolist():
                window, position = divmod(batch, in_window)
                if window not in is_grouped:  # the first batch need not wait for the sizes of a million samples
                    sizes = self.samples.draw_sizes(windows[window], epoch)
                    windows[window].copy_(torch.cat(self._halve(windows[window], sizes)))
                    is_grouped.add(window)
                yield from windows[window][position * self.batch_size :][: self.batch_size].tolist()
        for some in rest.split(_ITERATED):
            yield from some.tolist()

    def _draw_indices(self, generator: torch.Generator) -> Tensor:
        """Return the samples of the epoch, int64 `[len(self)]`."""
        every = torch.arange(len(self.samples))
        if self.samples.factors is None:
            return every
        offset = torch.rand((), generator=generator, dtype=torch.float64).item()
        repeats = torch.from_numpy(count_repeats(self.samples.factors, offset))
        images = every.repeat_interleave(repeats)
        times = torch.arange(len(images)) - (repeats.cumsum(0) - repeats)[images]
        return images + times * len(self.samples)

    def _halve(self, samples: Tensor, sizes: Tensor) -> list[Tensor]:
        """Batches of samples of these sizes, split in two by the side in which they differ more, again and again."""
        count = len(samples) // self.batch_size
        if count == 1:
            return [samples]
        sides = sizes.double().log()
        ascending = sides[:, sides.std(0).argmax()].argsort(stable=True)
        half = count // 2 * self.batch_size
        parts = ascending[:half], ascending[half:]
        return [batch for part in parts for batch in self._halve(samples[part], sizes[part])]
