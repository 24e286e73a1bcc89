"""How much memory there is, how much this process has taken, and that it keeps it from step to step."""

import ctypes
import os
import re
import sys
from pathlib import Path

import psutil
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


def memory_at_hand(device: torch.device) -> float | None:
    """
    Return the bytes this process may take in all, those that it has included; None where the system does not say.

    Args:
        device: of the model. On a GPU it is the GPU's memory; else main memory that is free, within the limits of
            control groups (containers, SLURM), and an equal share of it for each of this machine's processes.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return float(torch.mps.recommended_max_memory())
    if device.type != "cpu":
        return None
    own = psutil.Process().memory_info().rss
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return own + min([psutil.virtual_memory().available, *_left_in_control_groups()]) / processes


def _left_in_control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the bytes left in each control group of this process that has a limit, of version 1 and 2."""
    try:
        entries = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        return []
    left = []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        group = top / path.lstrip("/")
        for folder in {top, group, *(parent for parent in group.parents if parent.is_relative_to(top))}:
            left += _left_in_group(folder, *names)
    return left


def _left_in_group(folder: Path, limit_file: str, usage_file: str) -> list[int]:
    try:
        limit = (folder / limit_file).read_text(encoding="utf-8").strip()
        used = int((folder / usage_file).read_text(encoding="utf-8"))
        statistics = (folder / "memory.stat").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    if not limit.isdigit():  # "max"
        return []
    cache = re.search(r"^(?:total_)?inactive_file (\d+)$", statistics, flags=re.M)  # given back when it is needed
    return [max(int(limit) - used + (int(cache[1]) if cache else 0), 0)]
