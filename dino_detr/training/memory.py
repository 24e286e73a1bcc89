"""How much memory this process has taken."""

import re
import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_memory_mib() -> float:
    """The most this process ever held: GPU memory if there is a GPU, else main memory. NaN if the system is silent."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:  # Linux counts a parent's memory into the `ru_maxrss` of a process it starts, but not into this
        own = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        own = None
    if own:
        return int(own[1]) / 2**10
    if resource is None:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
