"""What a run folder says: the lines of its `metrics.jsonl` or `evaluation.jsonl`, and its recipe and figures."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

from .names import FIGURES


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a history file, in the order of their steps; empty if there is no such file.

    A killed run may leave half a line, and a resumed one repeats the steps since its checkpoint: lines that are not
    JSON objects with a number as `step` are skipped, and of a step's lines the last one counts.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    by_step = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and _is_finite(entry.get("step")):
            by_step[entry["step"]] = entry
    return [by_step[step] for step in sorted(by_step)]


def read_mapping(path: str | Path) -> dict[str, Any]:
    """
    Return what a JSON or YAML file of a run says; nothing if there is no such file, or it is empty YAML.

    Raises:
        ValueError: naming the file, if it cannot be read or is no mapping of names to values.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        raise ValueError(f"{path} cannot be read: {' '.join(str(fault).split())}") from fault
    if content is None and path.suffix == ".yaml":
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no mapping of names to values, as a run writes it")
    return content


def read_figures(path: str | Path) -> dict[str, Any]:
    """
    Return a run's `figures.json`, as `read_mapping` does; figures that it lacks are -1, COCO's for "not measured".

    Raises:
        ValueError: also if a figure, or one of a class, is no finite number.
    """
    figures = read_mapping(path)
    if not figures:
        return {}
    per_class = figures.get("per_class", {})
    if not isinstance(per_class, dict):
        raise ValueError(f"{path}: per_class is {per_class!r}, not figures by class")
    if not _is_finite(figures.get("step", 0)):
        raise ValueError(f"{path}: step is {figures['step']!r}, not a number")
    whole = _filled(figures, str(path))
    if per_class:
        whole["per_class"] = {name: _filled(each, f"{path}, {name}") for name, each in per_class.items()}
    return whole


def _filled(figures: dict, where: str) -> dict[str, Any]:
    if not isinstance(figures, dict):
        raise ValueError(f"{where}: {figures!r} is no mapping of figures")
    for name in FIGURES[:6]:
        if not _is_finite(figures.get(name, -1)):
            raise ValueError(f"{where}: {name} is {figures[name]!r}, not a number")
    return dict.fromkeys(FIGURES[:6], -1) | figures


def _is_finite(value: Any) -> bool:
    """Tell whether a value is a number that can be compared and computed with."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def learning_rate_drops(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return the lines of `metrics.jsonl` that are the last before a drop of the learning rate.

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
