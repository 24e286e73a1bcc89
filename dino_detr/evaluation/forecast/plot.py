"""A forecast as a picture: points, curves, interval."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from .curves import CURVES, curve
from .forecasting import format_ap
from .intervals import delta_interval

_COLORS = {"power_law": "#0072B2", "logarithmic": "#009E73", "log_linear": "#D55E00"}  # as in plots.py


def draw_forecast(result: dict, path: str | Path) -> None:
    """
    Draw points, curves and the interval of the best curve.

    Args:
        result: what `forecast_ap` returned.
        path: file to write, a `.png` or another form that matplotlib knows.
    """
    step, best, highest = result["forecast"]["step"], result["best"], result["history"]["highest"]
    x, y = np.array(result["history"]["steps"]), np.array(result["history"]["values"])
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.add_subplot(title="Box average precision, forecast", xlabel="step", ylabel="average precision")
    along = np.geomspace(x[0], max(step, x[-1]), 400)
    band = np.clip(delta_interval(best, result["fits"][best], x, y, along), 0, highest)
    axes.fill_between(along, *band.T, color=_COLORS[best], alpha=0.15, linewidth=0, label=f"{best}, 95 % interval")
    for name in CURVES:
        value = format_ap(result["forecast"][name], highest)
        style: Any = {"linewidth": 2} if name == best else {"linewidth": 1, "linestyle": "--"}
        axes.plot(
            along, curve(name, result["fits"][name], along), color=_COLORS[name], label=f"{name}: {value}", **style
        )
        axes.plot(step, result["forecast"][name], color=_COLORS[name], marker="o", markerfacecolor="white")
    axes.plot(x, y, color="black", marker="o", markersize=3, linestyle="", label="evaluations", zorder=1)
    if result["power_law_before_drop"]:
        before = result["power_law_before_drop"]
        label = f"power_law before the drop: {format_ap(before['forecast'], highest)}"
        axes.plot(along, curve("power_law", before, along), color="#CC79A7", linewidth=1, linestyle=":", label=label)
    if result["history"]["drop"] is not None and result["history"]["drop"] < max(step, x[-1]):
        axes.axvline(result["history"]["drop"], color="grey", linewidth=1, linestyle=":", label="learning rate dropped")
    axes.axvline(step, color="grey", linewidth=1, alpha=0.5)
    top = max([y.max(), *(result["forecast"][name] for name in CURVES)])
    axes.set(xlim=(0, None), ylim=(0, 1.08 * min(top, highest)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)  # a curve may go anywhere
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
