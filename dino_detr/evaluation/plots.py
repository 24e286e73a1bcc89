"""The curves of a training run, redrawn from its history files."""

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from ..runs.history import learning_rate_drops, read_history
from ..runs.names import BOX_AP_PNG, EVALUATION_JSONL, LOSS_PNG, METRICS_JSONL

# From Okabe and Ito's palette, told apart by colour-blind readers: https://jfly.uni-koeln.de/color/
_BLUE, _ORANGE, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_AP = {
    "AP": ("AP (IoU .50:.95)", _BLUE),
    "AP50": ("AP50", _ORANGE),
    "AP75": ("AP75", _GREEN),
    "ema_AP": ("AP of the averaged weights", _PURPLE),
}
_LOSSES = {
    "loss": ("total", "black"),
    "loss_class": ("class", _BLUE),
    "loss_bbox": ("box L1", _ORANGE),
    "loss_giou": ("box GIoU", _GREEN),
}


def draw_plots(run_folder: str | Path) -> None:
    """Draw the curves of AP and of the loss.

    `plots/box_ap.png` is of `evaluation.jsonl`, with drops of the learning rate from `metrics.jsonl`.
    `plots/loss.png` is of the latter.

    What has no numbers yet is not drawn. A picture is replaced in one go, so that a viewer never meets half of one.
    """
    folder = Path(run_folder)
    metrics = read_history(folder / METRICS_JSONL)
    drops = learning_rate_drops(metrics)
    _draw_box_ap(read_history(folder / EVALUATION_JSONL), drops, folder / BOX_AP_PNG)
    _draw_loss(metrics, folder / LOSS_PNG)


def _draw_box_ap(history: list[dict], drops: list[dict], path: Path) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(title="Box average precision", ylabel="average precision")
    for key, (label, color) in _AP.items():
        x, y = _curve(history, key)
        x, y = x[y >= 0], y[y >= 0]  # -1: there was no object to find
        if len(y):
            best = y.argmax()
            axes.plot(x, y, color=color, marker="o", markersize=3, label=f"{label}, best {y[best]:.3f}")
            axes.plot(x[best], y[best], color=color, marker="o", markersize=8, markerfacecolor="white")
    if axes.lines:
        axes.set_ylim(0, 1.05 * max(np.max(line.get_ydata()) for line in axes.lines) or 1)
        x = _x_name(history)
        for number, drop in enumerate(drop for drop in drops if x in drop):
            label = None if number else "learning rate dropped"
            axes.axvline(drop[x], color="grey", linewidth=1, linestyle=":", label=label)
        _save(figure, history, path)


def _draw_loss(history: list[dict], path: Path) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(title="Training loss", ylabel="loss (logarithmic)", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    for key, (label, color) in _LOSSES.items():
        x, y = _curve(history, key)
        x, y = x[y > 0], y[y > 0]
        if len(y):
            axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
            axes.plot(x, _smooth(y), color=color, marker="o" if len(y) == 1 else "", label=label)
    if axes.lines:
        _save(figure, history, path)


def _curve(history: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The finite values of one quantity, over epochs, or over steps where a line has no epoch."""
    x = _x_name(history)
    points = [(entry[x], entry[key]) for entry in history if isinstance(entry.get(key), (int, float))]
    points = np.array(points, dtype=float).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def _x_name(history: list[dict]) -> str:
    return "epoch" if all("epoch" in entry for entry in history) else "step"


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over a fortieth of the curve; at its ends, over what there is."""
    window = np.ones(2 * (len(values) // 80) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _save(figure: Figure, history: list[dict], path: Path) -> None:
    (axes,) = figure.axes
    axes.set_xlabel(_x_name(history))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.png")
    figure.savefig(unfinished, dpi=120)
    os.replace(unfinished, path)
