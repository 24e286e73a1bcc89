"""A forecast of AP at a later step, and how far it can be believed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .curves import CURVES, EXPONENTS, check_points, curve, fit_all, fit_curve, rmse, usable_points
from .intervals import LEVEL, bootstrap_interval, delta_interval

_FEWEST_IN_BACKTEST = 4  # one more than a curve has parameters
_RISEN = 0.01  # of the greatest possible AP


def forecast_ap(
    steps: ArrayLike, values: ArrayLike, step: int, drop: float | None = None, highest: float = 1.0
) -> dict:
    """
    Forecast AP at a step, for a run that goes on as it did.

    Args:
        steps, values: as `fit_learning_curve` takes them.
        step: to forecast.
        drop: the last step before the learning rate was dropped: points up to it are also fitted alone.
        highest: the greatest value possible, 1 or 100.

    Returns:
        What `dino-detr forecast --output` writes, ready for JSON; all AP in the unit of `values`:

        - `fits`, as of `fit_learning_curve`, and `forecast`: `{"step", <curve>: value}`, from all points;
        - `best`: the curve with the least error in the backtest;
        - `backtest`: `{"points", "last_step", <curve>: rmse}`, of curves fitted to the first half of the points (at
          least 4), on the others;
        - `intervals`: `{"level", <curve>: {"delta": [low, high], "bootstrap": [low, high]}}`, in which a measured
          value at that step would lie, cut at 0 and `highest` (see `delta_interval`, `bootstrap_interval`);
        - `power_law_before_drop`: `{"drop", "points", "a", "b", "c", "rmse", "forecast"}`, or None where no drop is
          known, nothing was evaluated after it, or what is before it cannot be fitted;
        - `history`: `{"steps", "values", "left_out": [step], "drop", "highest"}`, what was fitted and what was not;
        - `verdict`: a sentence.

    Raises:
        ValueError: as `fit_learning_curve`; if AP has not risen above 0.01 of `highest`; for a value above that, or a
            step below 1.
    """
    if step < 1:
        raise ValueError(f"step {step}: a forecast is of step 1 or later")
    x, y, left_out = usable_points(steps, values)
    if len(y) and y.max() > highest:
        raise ValueError(f"AP is {y.max():g} at step {x[y.argmax()]:,.0f}, but can be {highest:g} at most")
    check_points(x, y)
    if y.max() < _RISEN * highest:
        raise ValueError(f"AP has not risen above {_RISEN * highest:g} yet: there is no curve to go on with")
    fits = fit_all(x, y)
    backtest = _backtest(x, y)
    intervals = {
        name: {
            "delta": delta_interval(name, fits[name], x, y, [step])[0],
            "bootstrap": bootstrap_interval(name, fits[name], x, y, step),
        }
        for name in CURVES
    }
    result = {
        "fits": fits,
        "forecast": {"step": step} | {name: float(curve(name, fits[name], step)) for name in CURVES},
        "best": min(CURVES, key=lambda name: backtest[name]),
        "backtest": backtest,
        "intervals": {"level": LEVEL}
        | {
            name: {method: np.clip(ends, 0, highest).tolist() for method, ends in both.items()}
            for name, both in intervals.items()
        },
        "power_law_before_drop": _before_drop(x, y, drop, step),
        "history": {
            "steps": x.tolist(),
            "values": y.tolist(),
            "left_out": left_out,
            "drop": drop,
            "highest": highest,
        },
    }
    return result | {"verdict": _verdict(result)}


def _backtest(x: np.ndarray, y: np.ndarray) -> dict:
    half = max(_FEWEST_IN_BACKTEST, (len(x) + 1) // 2)
    fits = fit_all(x[:half], y[:half])
    errors = {name: rmse(curve(name, fits[name], x[half:]) - y[half:]) for name in CURVES}
    return {"points": half, "last_step": x[half - 1]} | errors


def _before_drop(x: np.ndarray, y: np.ndarray, drop: float | None, step: int) -> dict | None:
    if drop is None or drop >= x[-1]:
        return None
    x, y = x[x <= drop], y[x <= drop]
    try:
        check_points(x, y)
    except ValueError:
        return None
    fit = fit_curve("power_law", x, y)
    return {"drop": drop, "points": len(x), **fit, "forecast": float(curve("power_law", fit, step))}


def _verdict(result: dict) -> str:
    history, backtest, best = result["history"], result["backtest"], result["best"]
    step, error, highest = result["forecast"]["step"], backtest[best], history["highest"]
    value, last = result["forecast"][best], history["steps"][-1]
    tested = last / backtest["last_step"]
    sentence = (
        f"{best} forecasts {format_ap(value, highest)} at step {step:,}; fitted to the first {backtest['points']} "
        f"points it missed the others, up to {tested:.1f} times as far, by {format_ap(error, highest)}: "
    )
    if not 0 <= value <= highest:
        return sentence + f"not to be believed, AP is within 0 and {highest:g}."
    if error > 0.05 * highest:
        return sentence + "not to be believed."
    if step <= tested * last:
        return sentence + "to be believed about as far as that."
    return sentence + f"a rough guide, for it looks {step / last:.1f} times as far."


def format_ap(value: float, highest: float) -> str:
    """Write an AP of 0..100 with two decimals, one of 0..1 with four."""
    return f"{value:.{2 if highest > 1 else 4}f}"


def format_forecast(result: dict) -> str:
    """Write what `forecast_ap` returned as a table, with its verdict."""
    history, before_drop = result["history"], result["power_law_before_drop"]
    steps, values = history["steps"], history["values"]

    def ap(value: float) -> str:
        return format_ap(value, history["highest"])

    lines = [
        f"{len(steps)} evaluations, steps {steps[0]:,.0f} to {steps[-1]:,.0f}, "
        f"AP {ap(values[0])} to {ap(values[-1])} (of {history['highest']:g})"
    ]
    if history["left_out"]:
        first = ", ".join(f"{step:,.0f}" for step in history["left_out"][:5])
        more = f" and {len(history['left_out']) - 5} more" if len(history["left_out"]) > 5 else ""
        lines.append(f"left out, for they have no AP or no step above 0: steps {first}{more}")
    level = f"{result['intervals']['level']:.0%}"
    headings = ("a", "b", "c", "rmse", "backtest", f"at {result['forecast']['step']:,}", level, f"{level}, blocks")
    lines += ["", _row("", headings)]
    for name, formula in CURVES.items():
        ends = result["intervals"][name]
        cells = [*_parameters(result["fits"][name]), ap(result["backtest"][name]), ap(result["forecast"][name])]
        cells += [f"{ap(ends[method][0])}..{ap(ends[method][1])}" for method in ("delta", "bootstrap")]
        lines.append(_row(f"{'*' if name == result['best'] else ' '} {name}  {formula}", cells))
    if before_drop:
        cells = [*_parameters(before_drop), "", ap(before_drop["forecast"])]
        lines.append(_row("  power_law before the drop", cells))
    lines.append("* best: least error in the backtest")
    if result["fits"]["power_law"]["c"] < 1.01 * EXPONENTS[0]:
        lines.append(f"power_law: c is at the end of its range, {EXPONENTS[0]:g}: the points do not level off yet")
    if before_drop:
        lines.append(f"before the drop: fitted to the {before_drop['points']} points up to step {history['drop']:,}")
    elif history["drop"] is not None:
        lines.append(
            f"The rate was dropped at step {history['drop']:,}: points before it are not fitted alone, as they are "
            "fewer than 6, do not rise, or none comes after it"
        )
    lines += ["", result["verdict"]]
    return "\n".join(lines)


def _parameters(fit: dict) -> list[str]:
    return [f"{fit[key]:.5g}" if key in fit else "" for key in ("a", "b", "c", "rmse")]


def _row(name: str, cells: Sequence[str]) -> str:
    *numbers, low, high = [*cells, "", ""][:8]
    return (f"{name:<33}" + "".join(f"{cell:>12}" for cell in numbers) + f"{low:>17}{high:>17}").rstrip()
