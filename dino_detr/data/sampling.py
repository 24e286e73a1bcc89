"""The order of training samples."""

from collections.abc import Iterator

import torch
from datasets import Dataset
from torch.utils.data import Sampler


class AspectGroupedSampler(Sampler[int]):
    """
    A random order, every sample once, in which batches are all upright or all not, as far as that comes out.

    A batch is padded to its widest and its tallest image; the reference groups by aspect ratio for the same reason. The
    order depends on (seed, epoch) alone.

    Args:
        rows: of `load_detection_dataset`.
        batch_size: images of one process in one forward.
        seed: of the run.
    """

    def __init__(self, rows: Dataset, batch_size: int, seed: int):
        sizes = rows.select_columns(["width", "height"])[:]
        self.upright = torch.tensor(sizes["height"]) >= torch.tensor(sizes["width"])
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.upright)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
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
