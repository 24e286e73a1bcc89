"""Where the time of a training step goes, and where the CPU waits for the GPU in it: python benchmarks/profile_step.py

The model and the batch are those of `step.py`. One line of JSON: seconds a step without the profiler, the operators
with the most time of their own in milliseconds (on a GPU its time), and, on a GPU, the lines that wait for it with how
often they do so in a step.
"""

import argparse
import json
import statistics
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch
from step import Candidate, make_batch
from torch.profiler import ProfilerActivity, profile
from turns import seconds

from dino_detr.benchmark import BACKBONES


def waits_of(work) -> dict[str, int]:
    """Return the lines of this project in which the CPU waits for the GPU, with how often."""
    lines: Counter[str] = Counter()
    root = str(Path(__file__).parents[1])

    def note(*_args, **_options) -> None:
        ours = [f for f in traceback.extract_stack()[:-1] if f.filename.startswith(root) and "/." not in f.filename]
        lines[f"{ours[-1].filename.removeprefix(root + '/')}:{ours[-1].lineno}"] += 1

    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        work()
    torch.cuda.set_sync_debug_mode("default")
    return dict(lines.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit-b", choices=list(BACKBONES))
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=int, nargs=2, default=[800, 1088], metavar=("H", "W"))
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    batch = make_batch(options.batch_size, options.image_size, device)
    candidate = Candidate("ours", "bf16", options.backbone, batch)
    candidate.train()
    measured = [seconds(candidate.train) for _ in range(options.steps)]
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        seconds(candidate.train)
    own_time = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    operators = sorted(profiler.key_averages(), key=lambda event: -getattr(event, own_time))[:15]
    line = {
        "profile": options.backbone,
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "seconds": round(statistics.median(measured), 4),
        "ms": {event.key[:80]: round(getattr(event, own_time) / 1e3, 2) for event in operators},
        "waits": waits_of(candidate.train) if on_gpu else None,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
