"""Curves of AP over the steps, and their fits."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from transformers.utils import logging

logger = logging.get_logger(__name__)

CURVES = {
    "power_law": "a - b x^-c",
    "logarithmic": "a ln x + b",
    "log_linear": "a ln x + b x + c",
}
FEWEST_POINTS = 6
EXPONENTS = np.geomspace(0.01, 5, 400)  # c of the power law: nearly a logarithm, nearly a single jump


def fit_learning_curve(steps: ArrayLike, values: ArrayLike) -> dict[str, dict[str, float]]:
    """
    Fit each of `CURVES` to all points by least squares.

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
    x, y, left_out = usable_points(steps, values)
    if left_out:
        logger.warning(f"left out, without an AP or a step: {len(left_out)} of {len(left_out) + len(x)} points")
    check_points(x, y)
    return fit_all(x, y)


def curve(name: str, fit: dict[str, float], steps: ArrayLike) -> np.ndarray:
    """Return the values of a fitted curve at steps of any shape."""
    linear = [fit["a"], fit["b"], fit["c"]] if name == "log_linear" else [fit["a"], fit["b"]]
    return linear_parts(name, steps, fit.get("c")) @ linear


def usable_points(steps: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return steps and values `[n]` in the order of steps, and the steps that were left out."""
    steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if steps.shape != values.shape or steps.ndim != 1:
        raise ValueError(f"steps {steps.shape} and values {values.shape} must be two lists of one length")
    last = dict(zip(steps.tolist(), values.tolist()))
    kept = sorted((step, value) for step, value in last.items() if 1 <= step < np.inf and 0 <= value < np.inf)
    left_out = sorted(step for step in last if step not in dict(kept) and np.isfinite(step))
    x, y = np.array(kept).reshape(-1, 2).T
    return x, y, left_out


def check_points(x: np.ndarray, y: np.ndarray) -> None:
    """Refuse points that no learning curve can be fitted to (`ValueError`)."""
    if len(x) < FEWEST_POINTS:
        raise ValueError(f"{len(x)} evaluations with an AP are too few: a forecast needs {FEWEST_POINTS}")
    if np.ptp(y) == 0:
        raise ValueError(f"AP is {y[0]:g} at every step: there is no curve to fit")
    if fit_curve("logarithmic", x, y)["a"] <= 0:
        raise ValueError("AP does not rise with the steps: there is no learning curve to go on with")


def fit_all(x: np.ndarray, y: np.ndarray) -> dict[str, dict[str, float]]:
    return {name: fit_curve(name, x, y) for name in CURVES}


def fit_curve(name: str, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    c = _best_exponent(x, y) if name == "power_law" else None
    fit = dict(zip("abc", least_squares(linear_parts(name, x, c), y).tolist()))
    if c is not None:
        fit["c"] = float(c)
    return fit | {"rmse": rmse(curve(name, fit, x) - y)}


def linear_parts(name: str, steps: ArrayLike, c: float | None) -> np.ndarray:
    """Return `[..., 2 or 3]`, of which a curve is a linear combination; a power law only for this c."""
    x = np.asarray(steps, dtype=float)
    if name == "power_law":
        assert c is not None
        return np.stack([np.ones_like(x), -(x**-c)], axis=-1)
    if name == "logarithmic":
        return np.stack([np.log(x), np.ones_like(x)], axis=-1)
    return np.stack([np.log(x), x, np.ones_like(x)], axis=-1)


def gradients(name: str, fit: dict[str, float], steps: ArrayLike) -> np.ndarray:
    """Return the curve's gradients by its parameters, `[n, parameters]`, at each of `[n]` steps."""
    columns, x = linear_parts(name, steps, fit.get("c")), np.asarray(steps, dtype=float)
    if name == "power_law":
        columns = np.column_stack([columns, fit["b"] * x ** -fit["c"] * np.log(x)])
    return columns


def least_squares(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the `[k]` factors of columns `[n, k]` nearest to `y` `[n]`; `[k, m]` for `y` of `[n, m]`."""
    size = np.linalg.norm(columns, axis=0)
    return (np.linalg.lstsq(columns / size, y)[0].T / size).T


def _best_exponent(x: np.ndarray, y: np.ndarray) -> float:
    def squares(c: float) -> float:
        columns = linear_parts("power_law", x, c)
        return ((columns @ least_squares(columns, y) - y) ** 2).sum()

    nearest = int(nearest_exponents(x, y[None])[0])
    bounds = EXPONENTS[max(nearest - 1, 0)], EXPONENTS[min(nearest + 1, len(EXPONENTS) - 1)]
    return minimize_scalar(squares, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x


def nearest_exponents(x: np.ndarray, histories: np.ndarray) -> np.ndarray:
    """Return, for histories `[m, n]`, the `[m]` indices of the `EXPONENTS` whose rising power law fits best."""
    powers = x ** -EXPONENTS[:, None]
    powers -= powers.mean(1, keepdims=True)
    powers /= np.linalg.norm(powers, axis=1, keepdims=True)
    # what is explained is the square of these products; a curve rises where they are negative
    return (histories @ powers.T).argmin(1)


def rmse(errors: np.ndarray) -> float:
    return float(np.sqrt((errors**2).mean()))
