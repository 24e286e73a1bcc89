"""A run's history: the lines of its `metrics.jsonl` or `evaluation.jsonl`."""

import json
from pathlib import Path


def read_history(path: str | Path) -> list[dict]:
    """The lines of a history file, in the order of their steps; empty if there is no such file.

    A killed run may leave half a line, and a resumed one repeats the steps since its checkpoint: lines that are not
    JSON objects with a `step` are skipped, and of a step's lines the last one counts.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    by_step = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and "step" in entry:
            by_step[entry["step"]] = entry
    return [by_step[step] for step in sorted(by_step)]


def learning_rate_drops(metrics: list[dict]) -> list[dict]:
    """
    Of the lines of `metrics.jsonl`, the last one before each drop of the learning rate.

    A drop is a fall to half or less from one line to the next between rates that stay within a tenth: what a warm-up
    or a cosine does is none. A line has the rate of the step that led to it, so a drop at a multiple of the logging
    interval is told exactly, any other less than an interval too early.
    """
    lines = [line for line in metrics if isinstance(line.get("learning_rate"), (int, float))]
    rates = [line["learning_rate"] for line in lines]
    drops = []
    for i in range(1, len(rates) - 1):
        before, rate, after = rates[i - 1 : i + 2]
        level_after = rates[i + 2] >= 0.9 * after if i + 2 < len(rates) else True
        if abs(rate - before) <= 0.1 * before and 0 < after <= 0.5 * rate and level_after:
            drops.append(lines[i])
    return drops
