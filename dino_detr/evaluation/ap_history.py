"""AP over steps, from a run folder or from the CSV that a tracker exports."""

import csv
from dataclasses import dataclass
from pathlib import Path

import yaml

from .history import learning_rate_drops, read_history

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
        path = path / "evaluation.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: give a run folder that has been evaluated, its evaluation.jsonl or a CSV")
    history = _read_csv(path) if path.suffix.lower() == ".csv" else _read_run(path)
    if not history.values:
        raise ValueError(f"{path} has no AP")
    return history


def _read_run(path: Path) -> ApHistory:
    lines = [line for line in read_history(path) if isinstance(line.get("AP"), (int, float))]
    drops = learning_rate_drops(read_history(path.parent / "metrics.jsonl"))
    recipe = path.parent / "recipe.yaml"
    max_steps = (yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}).get("max_steps") if recipe.exists() else None
    return ApHistory(
        steps=[line["step"] for line in lines],
        values=[line["AP"] for line in lines],
        highest=1.0,
        drop=drops[0]["step"] if drops else None,
        max_steps=max_steps if max_steps and max_steps > 0 else None,
    )


def _read_csv(path: Path) -> ApHistory:
    with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets begin a file with a mark
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
        return float(row[name])
    except ValueError:
        raise ValueError(f"{path}, line {line}: {name} is {row[name]!r}, not a number") from None
