"""What happens between two lines of the log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class LogInterval:
    """Sums of the loss terms since the last line of the log, the time since then, and the time of waiting for data."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.loss_terms: dict[str, Tensor] = {}
        self.micro_batches = 0
        self.seconds_waited = 0.0
        self.started = time.perf_counter()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        since = time.perf_counter()
        yield
        self.seconds_waited += time.perf_counter() - since

    def add(self, loss_terms: dict[str, Tensor]) -> None:
        """Add the terms of a micro-batch. They are summed on the device, so nothing waits."""
        for name, term in loss_terms.items():
            self.loss_terms[name] = self.loss_terms.get(name, 0) + term.detach()
        self.micro_batches += 1

    def summary(self, micro_batches_of_step: int) -> dict[str, float]:
        """Return the mean of each loss term, the seconds per step and the share of waiting for data."""
        elapsed = time.perf_counter() - self.started
        means = {name: term.item() / self.micro_batches for name, term in self.loss_terms.items()}
        return means | {
            "seconds_per_step": elapsed / self.micro_batches * micro_batches_of_step,
            "data_wait_share": self.seconds_waited / elapsed,
        }
