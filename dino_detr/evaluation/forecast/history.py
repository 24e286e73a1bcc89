"""AP over steps, from a run folder or from the CSV that a tracker exports."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ...runs.history import learning_rate_drops, read_history, read_mapping
from ...runs.names import EVALUATION_JSONL, METRICS_JSONL, RECIPE_YAML

_STEP, _AP = "Step", "bbox/AP"  # detectron2's names, as wandb exports them


@dataclass
class ApHistory:
    """
    Attributes:
        steps, values: `[n]`, one for each evaluation; a value may be NaN or -1.
        highest: the greatest AP possible: 1 for `evaluation.jsonl`, 100 for a CSV that has a value above 1.
        drop: the last step known to be before the learning rate's first drop; None if there was none.
        max_steps: how long the run is to go on; None if it is not known.
    """

    steps: list[float]
    values: list[float]
    highest: float
    drop: int | None = None
    max_steps: int | None = None

    def step_to_forecast(self) -> int:
        """The run's last, or four times the last one evaluated if the run is over or its length not known."""
        last = max(self.steps)
        return self.max_steps if self.max_steps is not None and self.max_steps > last else round(4 * last)


def read_ap_history(source: str | Path) -> ApHistory:
    """
    Args:
        source: a run folder; its `evaluation.jsonl`, beside which the run's other files may be; or a CSV with the
            columns `Step` and `bbox/AP`, the latter as it is or after a run's name, `<run> - bbox/AP`.

    Raises:
        FileNotFoundError: if there is no such file, or no `evaluation.jsonl` in the folder.
        ValueError: if the file has no AP, or a CSV lacks a column or holds what is not a number.
    """
    path = Path(source)
    if path.is_dir():
        path = path / EVALUATION_JSONL
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: give a run folder that has been evaluated, its evaluation.jsonl or a CSV")
    history = _read_csv(path) if path.suffix.lower() == ".csv" else _read_run(path)
    if not history.values:
        raise ValueError(f"{path} has no AP")
    return history


def _read_run(path: Path) -> ApHistory:
    lines = [line for line in read_history(path) if isinstance(line.get("AP"), (int, float))]
    drops = learning_rate_drops(read_history(path.parent / METRICS_JSONL))
    max_steps = read_mapping(path.parent / RECIPE_YAML).get("max_steps")
    return ApHistory(
        steps=[line["step"] for line in lines],
        values=[line["AP"] for line in lines],
        highest=1.0,
        drop=drops[0]["step"] if drops else None,
        max_steps=max_steps if type(max_steps) is int and max_steps > 0 else None,
    )


def _read_csv(path: Path) -> ApHistory:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets begin a file with a mark
            return _read_table(file, path)
    except (UnicodeDecodeError, csv.Error) as fault:
        raise ValueError(f"{path} is not readable as CSV in UTF-8: {fault}") from fault


def _read_table(file: TextIO, path: Path) -> ApHistory:
    reader = csv.DictReader(file, skipinitialspace=True)
    columns = reader.fieldnames or []
    runs = [name for name in columns if name == _AP or name.endswith(f" - {_AP}")]
    if _STEP not in columns or not runs:
        raise ValueError(f"{path} needs the columns {_STEP} and {_AP}; it has {', '.join(columns) or 'none'}")
    if len(runs) > 1:
        raise ValueError(f"{path} holds several runs, {', '.join(runs)}: leave one of these columns in")
    rows = [
        [_number(row, name, path, reader.line_num) for name in (_STEP, runs[0])]
        for row in reader
        if row[_STEP] and row[runs[0]]  # trackers leave cells empty at steps without an evaluation
    ]
    values = [value for _, value in rows]
    return ApHistory([step for step, _ in rows], values, highest=100.0 if any(v > 1 for v in values) else 1.0)


def _number(row: dict, name: str, path: Path, line: int) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = None
    if value is None or (name == _STEP and not math.isfinite(value)):
        raise ValueError(f"{path}, line {line}: {name} is {row[name]!r}, not a number")
    return value
