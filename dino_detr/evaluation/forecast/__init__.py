"""How AP goes on: curves fitted to a run's history, and how far they can be believed."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import stdtrit
from transformers.utils import logging

logger = logging.get_logger(__name__)

CURVES = {
    "power_law": "a - b x^-c",
    "logarithmic": "a ln x + b",
    "log_linear": "a ln x + b x + c",
}
LEVEL = 0.95  # of the intervals
FEWEST_POINTS = 6

_FEWEST_IN_BACKTEST = 4  # one more than a curve has parameters
_EXPONENTS = np.geomspace(0.01, 5, 400)  # c of the power law: nearly a logarithm, nearly a single jump
_RESAMPLES = 2000
_RISEN = 0.01  # of the greatest possible AP


def fit_learning_curve(steps, values) -> dict[str, dict[str, float]]:
    """
    Least squares of each of `CURVES` over all points.

    The power law is linear in a and b once c is known, so c alone is searched for (variable projection; Golub and
    Pereyra, 1973), over its whole range: no starting point can lead into a lesser minimum.

    Args:
        steps: `[n]`, in any order; of a step that comes twice the last value counts.
        values: `[n]`, AP in any unit. NaN, negative values (COCO's -1 says that there was nothing to find) and steps
            below 1 are left out, with a warning.

    Returns:
        `{"power_law": {"a", "b", "c", "rmse"}, "logarithmic": {"a", "b", "rmse"}, "log_linear": {"a", "b", "c",
        "rmse"}}`, for x in steps and values in their unit. c of the power law is within 0.01 to 5.

    Raises:
        ValueError: if there are fewer than 6 points, all are equal, or they do not rise.
    """
    x, y, left_out = _usable(steps, values)
    if left_out:
        logger.warning(f"left out, without an AP or a step: {len(left_out)} of {len(left_out) + len(x)} points")
    _check(x, y)
    return _fit_all(x, y)


def forecast_ap(steps, values, step: int, drop: float | None = None, highest: float = 1.0) -> dict:
    """
    What AP will be at a step, if the run goes on as it did.

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
    x, y, left_out = _usable(steps, values)
    if len(y) and y.max() > highest:
        raise ValueError(f"AP is {y.max():g} at step {x[y.argmax()]:,.0f}, but can be {highest:g} at most")
    _check(x, y)
    if y.max() < _RISEN * highest:
        raise ValueError(f"AP has not risen above {_RISEN * highest:g} yet: there is no curve to go on with")
    fits = _fit_all(x, y)
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


def curve(name: str, fit: dict[str, float], steps) -> np.ndarray:
    """Values of a fitted curve at steps of any shape."""
    linear = [fit["a"], fit["b"], fit["c"]] if name == "log_linear" else [fit["a"], fit["b"]]
    return _columns(name, steps, fit.get("c")) @ linear


def delta_interval(name: str, fit: dict[str, float], steps, values, at) -> np.ndarray:
    """
    `[m, 2]`: where a value measured at each of `[m]` steps would lie, of `LEVEL`, were the curve the true one and its
    residuals independent: Student's t times s sqrt(1 + g' (J'J)^-1 g), with the gradients J at the points and g at the
    step, and s^2 = residual sum of squares / (points - parameters) (delta method; Bates and Watts, 1988, section 2.3).
    """
    gradients = _gradients(name, fit, steps)
    size = np.linalg.norm(gradients, axis=0)
    inverse = np.linalg.pinv(np.linalg.qr(gradients / size, mode="r"))
    leverage = ((_gradients(name, fit, at) / size @ inverse) ** 2).sum(1)
    freedom = len(gradients) - gradients.shape[1]
    middle = curve(name, fit, at)
    noise = np.sqrt(((values - curve(name, fit, steps)) ** 2).sum() / freedom)
    half = stdtrit(freedom, (1 + LEVEL) / 2) * noise * np.sqrt(1 + leverage)
    return np.stack([middle - half, middle + half], axis=1)


def bootstrap_interval(name: str, fit: dict[str, float], steps, values, at: float) -> np.ndarray:
    """
    `[low, high]` of the same as `delta_interval`, but residuals may hang together: histories are made of the curve and
    of blocks of residuals that followed one another (moving blocks; Künsch, 1989), fitted again, and given one more
    residual at the step. Drawn from a fixed seed.
    """
    x, generator, fitted = np.asarray(steps, dtype=float), np.random.default_rng(0), curve(name, fit, steps)
    residuals = (values - fitted) * np.sqrt(len(x) / (len(x) - len(fit) + 1))  # fitted ones are too small
    length = round(len(x) ** (1 / 3))
    starts = generator.integers(0, len(x) - length + 1, (_RESAMPLES, -(-len(x) // length), 1))
    drawn = residuals[starts + np.arange(length)].reshape(_RESAMPLES, -1)[:, : len(x)]
    forecasts = _forecast_each(name, x, fitted + drawn, at) + generator.choice(residuals, _RESAMPLES)
    return np.quantile(forecasts, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])


def _usable(steps, values) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Steps and values `[n]` in the order of steps, and the steps that were left out."""
    steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if steps.shape != values.shape or steps.ndim != 1:
        raise ValueError(f"steps {steps.shape} and values {values.shape} must be two lists of one length")
    last = dict(zip(steps.tolist(), values.tolist()))
    kept = sorted((step, value) for step, value in last.items() if 1 <= step < np.inf and 0 <= value < np.inf)
    left_out = sorted(step for step in last if step not in dict(kept) and np.isfinite(step))
    x, y = np.array(kept).reshape(-1, 2).T
    return x, y, left_out


def _check(x: np.ndarray, y: np.ndarray) -> None:
    if len(x) < FEWEST_POINTS:
        raise ValueError(f"{len(x)} evaluations with an AP are too few: a forecast needs {FEWEST_POINTS}")
    if np.ptp(y) == 0:
        raise ValueError(f"AP is {y[0]:g} at every step: there is no curve to fit")
    if _fit("logarithmic", x, y)["a"] <= 0:
        raise ValueError("AP does not rise with the steps: there is no learning curve to go on with")


def _fit_all(x: np.ndarray, y: np.ndarray) -> dict[str, dict[str, float]]:
    return {name: _fit(name, x, y) for name in CURVES}


def _fit(name: str, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    c = _best_exponent(x, y) if name == "power_law" else None
    fit = dict(zip("abc", _least_squares(_columns(name, x, c), y).tolist()))
    if name == "power_law":
        fit["c"] = float(c)
    return fit | {"rmse": _rmse(curve(name, fit, x) - y)}


def _columns(name: str, steps, c: float | None) -> np.ndarray:
    """`[..., 2 or 3]`: of these a curve is the linear combination, the power law for this c."""
    x = np.asarray(steps, dtype=float)
    if name == "power_law":
        return np.stack([np.ones_like(x), -(x**-c)], axis=-1)
    if name == "logarithmic":
        return np.stack([np.log(x), np.ones_like(x)], axis=-1)
    return np.stack([np.log(x), x, np.ones_like(x)], axis=-1)


def _gradients(name: str, fit: dict[str, float], steps) -> np.ndarray:
    """`[n, parameters]`: of the curve at each step."""
    columns, x = _columns(name, steps, fit.get("c")), np.asarray(steps, dtype=float)
    if name == "power_law":
        columns = np.column_stack([columns, fit["b"] * x ** -fit["c"] * np.log(x)])
    return columns


def _least_squares(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`[k]`, or `[k, m]` for `y` of `[n, m]`."""
    size = np.linalg.norm(columns, axis=0)
    return (np.linalg.lstsq(columns / size, y)[0].T / size).T


def _best_exponent(x: np.ndarray, y: np.ndarray) -> float:
    def squares(c: float) -> float:
        columns = _columns("power_law", x, c)
        return ((columns @ _least_squares(columns, y) - y) ** 2).sum()

    nearest = int(_nearest_exponents(x, y[None])[0])
    bounds = _EXPONENTS[max(nearest - 1, 0)], _EXPONENTS[min(nearest + 1, len(_EXPONENTS) - 1)]
    return minimize_scalar(squares, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x


def _nearest_exponents(x: np.ndarray, histories: np.ndarray) -> np.ndarray:
    """Histories `[m, n]` -> `[m]` indices of the `_EXPONENTS` whose rising power law leaves the least squares."""
    powers = x ** -_EXPONENTS[:, None]
    powers -= powers.mean(1, keepdims=True)
    powers /= np.linalg.norm(powers, axis=1, keepdims=True)
    # what is explained is the square of these products; a curve rises where they are negative
    return (histories @ powers.T).argmin(1)


def _forecast_each(name: str, x: np.ndarray, histories: np.ndarray, at: float) -> np.ndarray:
    """Histories `[m, n]` -> `[m]`: the curve fitted to each, at a step. Of exponents the nearest is near enough."""
    if name != "power_law":
        return _columns(name, at, None) @ _least_squares(_columns(name, x, None), histories.T)
    forecasts, nearest = np.empty(len(histories)), _nearest_exponents(x, histories)
    for index in np.unique(nearest):
        c, which = _EXPONENTS[index], nearest == index
        forecasts[which] = _columns(name, at, c) @ _least_squares(_columns(name, x, c), histories[which].T)
    return forecasts


def _backtest(x: np.ndarray, y: np.ndarray) -> dict:
    half = max(_FEWEST_IN_BACKTEST, (len(x) + 1) // 2)
    fits = _fit_all(x[:half], y[:half])
    errors = {name: _rmse(curve(name, fits[name], x[half:]) - y[half:]) for name in CURVES}
    return {"points": half, "last_step": x[half - 1]} | errors


def _before_drop(x: np.ndarray, y: np.ndarray, drop: float | None, step: int) -> dict | None:
    if drop is None or drop >= x[-1]:
        return None
    x, y = x[x <= drop], y[x <= drop]
    try:
        _check(x, y)
    except ValueError:
        return None
    fit = _fit("power_law", x, y)
    return {"drop": drop, "points": len(x), **fit, "forecast": float(curve("power_law", fit, step))}


def _verdict(result: dict) -> str:
    history, backtest, best = result["history"], result["backtest"], result["best"]
    step, error, highest = result["forecast"]["step"], backtest[best], history["highest"]
    value, last = result["forecast"][best], history["steps"][-1]
    tested = last / backtest["last_step"]
    said = (
        f"{best} forecasts {format_ap(value, highest)} at step {step:,}; fitted to the first {backtest['points']} "
        f"points it missed the others, up to {tested:.1f} times as far, by {format_ap(error, highest)}: "
    )
    if not 0 <= value <= highest:
        return said + f"not to be believed, AP is within 0 and {highest:g}."
    if error > 0.05 * highest:
        return said + "not to be believed."
    if step <= tested * last:
        return said + "to be believed about as far as that."
    return said + f"a rough guide, for it looks {step / last:.1f} times as far."


def _rmse(errors: np.ndarray) -> float:
    return float(np.sqrt((errors**2).mean()))


def format_ap(value: float, highest: float) -> str:
    """Write an AP of 0..100 with two decimals, one of 0..1 with four."""
    return f"{value:.{2 if highest > 1 else 4}f}"


def format_forecast(result: dict) -> str:
    """What `forecast_ap` returns as a table and its verdict."""
    history, before_drop = result["history"], result["power_law_before_drop"]
    steps, values = history["steps"], history["values"]

    def ap(value):
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
    if result["fits"]["power_law"]["c"] < 1.01 * _EXPONENTS[0]:
        lines.append(f"power_law: c is at the end of its range, {_EXPONENTS[0]:g}: the points do not level off yet")
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


def _row(name: str, cells) -> str:
    *numbers, low, high = [*cells, "", ""][:8]
    return (f"{name:<33}" + "".join(f"{cell:>12}" for cell in numbers) + f"{low:>17}{high:>17}").rstrip()
