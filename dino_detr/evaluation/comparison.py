"""Runs side by side: figures, curves, and the options that differ."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..runs.history import read_figures, read_history, read_mapping
from ..runs.names import FIGURES, FIGURES_JSON, RECIPE_YAML
from .coco.table import format_figure

# Okabe and Ito's palette, told apart by colour-blind readers: https://jfly.uni-koeln.de/color/
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black")
_NOT_COMPARED = {"output_dir", "logging_dir", "run_name"}  # they differ in any two runs


@dataclass
class Run:
    """
    The record of a run, finished or not.

    Args:
        name: of the folder, with as many folders above it as tell it from the others.
        options: `recipe.yaml`.
        figures: of the best weights: `figures.json`, or of the best evaluation so far.
        metrics, evaluations: the lines of `metrics.jsonl` and `evaluation.jsonl`.
    """

    name: str
    options: dict
    figures: dict
    metrics: list[dict]
    evaluations: list[dict]

    @property
    def steps(self) -> int:
        return max((line["step"] for line in [*self.metrics, *self.evaluations]), default=0)

    def median(self, quantity: str) -> float | None:
        """Return the median of a quantity over the lines of the log; None if no line has it."""
        values = [line[quantity] for line in self.metrics if isinstance(line.get(quantity), (int, float))]
        return float(np.median(values)) if values else None


def read_runs(folders: list[str | Path]) -> list[Run]:
    """
    Read run folders.

    Raises:
        FileNotFoundError: naming a folder that holds no run.
        ValueError: naming a file that cannot be read, or if there are fewer than two folders.
    """
    if len(folders) < 2:
        raise ValueError("compare needs at least two runs")
    return [_read_run(Path(folder), name) for folder, name in zip(folders, _short_names(folders))]


def _read_run(folder: Path, name: str) -> Run:
    metrics, evaluations = (read_history(folder / f"{part}.jsonl") for part in ("metrics", "evaluation"))
    if not metrics and not evaluations and not (folder / FIGURES_JSON).is_file():
        raise FileNotFoundError(f"{folder} holds no run: no metrics.jsonl, evaluation.jsonl or figures.json")
    figures = read_figures(folder / FIGURES_JSON)
    scored = [line for line in evaluations if isinstance(line.get("AP"), (int, float))]
    if not figures and scored:
        figures = max(scored, key=lambda line: line["AP"])
    return Run(name, read_mapping(folder / RECIPE_YAML), figures, metrics, evaluations)


def _short_names(folders: list[str | Path]) -> list[str]:
    parts = [Path(folder).resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("the same run is named twice")


def options_that_differ(runs: list[Run]) -> dict[str, list]:
    """Return the values of each option that is not the same in all runs; None: a run's recipe does not say."""
    names = sorted({name for run in runs for name in run.options} - _NOT_COMPARED, key=str)
    values = {name: [run.options.get(name) for run in runs] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def to_json(runs: list[Run]) -> dict:
    """Return the comparison as what JSON can hold."""
    differ = options_that_differ(runs)
    return {
        run.name: {
            "figures": {name: run.figures.get(name) for name in FIGURES[:6]},
            "step_of_best": run.figures.get("step"),
            "steps": run.steps,
            "seconds_per_step": run.median("seconds_per_step"),
            "peak_memory_mib": run.median("peak_memory_mib"),
            "options": {str(name): _json_value(values[index]) for name, values in differ.items()},
        }
        for index, run in enumerate(runs)
    }


def _json_value(value: Any) -> Any:
    """Return what JSON can hold of what YAML can: dates and sets as text."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def format_comparison(runs: list[Run]) -> str:
    """Return figures and differing options as a table of one column a run."""
    rows = [("", [run.name for run in runs])]
    rows += [(name, [format_figure(run.figures.get(name)) for run in runs]) for name in FIGURES[:6]]
    rows += [
        ("best at step", [_shown(run.figures.get("step")) for run in runs]),
        ("steps", [_shown(run.steps) for run in runs]),
        ("seconds per step", [_shown(run.median("seconds_per_step")) for run in runs]),
        ("peak memory, MiB", [_shown(run.median("peak_memory_mib")) for run in runs]),
    ]
    differ = [(str(name), [_shown(value) for value in row]) for name, row in options_that_differ(runs).items()]
    widths = [max(len(cells[column]) for _, cells in rows + differ) for column in range(len(runs))]
    first = max(len(name) for name, _ in rows + differ)

    def line(name: str, cells: list[str]) -> str:
        return "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths))]).rstrip()

    title = "Options that differ" if differ else "No option differs"
    return "\n".join([*(line(*row) for row in rows), "", title, *(line(*row) for row in differ)])


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw_comparison(runs: list[Run], path: str | Path) -> None:
    """Draw AP and loss of all runs over their steps, as a PNG file."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    ap, loss = figure.subplots(1, 2)
    ap.set(title="Box AP", xlabel="step", ylabel="average precision")
    loss.set(title="Training loss", xlabel="step", ylabel="loss (logarithmic)", yscale="log")
    for number, run in enumerate(runs):
        style = {"color": _COLORS[number % len(_COLORS)], "linestyle": ("-", "--", ":")[number // len(_COLORS) % 3]}
        best = run.figures.get("AP")
        label = run.name if best is None or best < 0 else f"{run.name}, best {best:.3f}"
        ap.plot(*_points(run.evaluations, "AP", 0), marker="o", markersize=3, label=label, **style)
        loss.plot(*_points(run.metrics, "loss", 1e-12), label=run.name, **style)
    for axes in (ap, loss):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def _points(lines: list[dict], quantity: str, least: float) -> tuple[list, list]:
    points = [(line["step"], line[quantity]) for line in lines if isinstance(line.get(quantity), (int, float))]
    points = [point for point in points if np.isfinite(point[1]) and point[1] >= least]
    return [step for step, _ in points], [value for _, value in points]
