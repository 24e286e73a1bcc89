"""How much memory this process has taken, and that it keeps it from step to step."""

import ctypes
import re
import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_ON_HEAP = 32 * 2**20  # bytes, the most that glibc allows


def keep_freed_memory() -> None:
    """
    Have this process keep what it frees, for a step on a CPU frees all that the next one takes again.

    By default glibc gives it back to the system, which then has to clear each page anew, 40,000 to 130,000 in a
    step. The peak is the same. Nothing happens where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)


def peak_memory_mib() -> float:
    """The most this process ever held: GPU memory if there is a GPU, else main memory. NaN if the system is silent."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:  # Linux counts a parent's memory into the `ru_maxrss` of a process it starts, but not into this
        own = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        own = None
    if own:
        return int(own[1]) / 2**10
    if resource is None:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
