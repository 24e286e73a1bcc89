"""The order of training samples."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from .samples import TrainingSamples


class AspectGroupedSampler(Sampler[int]):
    """
    A random order, every sample once, in which batches are all upright or all not, as far as that comes out.

    A batch is padded to its widest and its tallest image; the reference groups by aspect ratio for the same reason. The
    order depends on the samples' (seed, epoch) alone.

    Args:
        samples: whose epoch is the order's too. (accelerate tells the epoch to a sampler or to the data set, never to
            both.)
        batch_size: images of a step, whatever the number of processes: each takes its part of them.
    """

    def __init__(self, samples: TrainingSamples, batch_size: int):
        sizes = samples.rows.select_columns(["width", "height"])[:]
        self.upright = torch.tensor(sizes["height"]) >= torch.tensor(sizes["width"])
        self.samples, self.batch_size = samples, batch_size

    def __len__(self) -> int:
        return len(self.upright)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(hash((self.samples.seed, self.samples.epoch)) % 2**63)
        order = torch.randperm(len(self), generator=generator)
        batches, rest = [], []
        for upright in (True, False):
            alike = order[self.upright[order] == upright]
            full = len(alike) // self.batch_size * self.batch_size
            batches += alike[:full].split(self.batch_size)
            rest += alike[full:].tolist()
        for batch in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[batch].tolist()
        yield from rest
