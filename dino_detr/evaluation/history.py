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
