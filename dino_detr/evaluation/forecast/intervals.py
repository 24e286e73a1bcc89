"""How far a forecast may be off: two intervals, of which one takes the points for independent."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from .curves import EXPONENTS, curve, gradients, least_squares, linear_parts, nearest_exponents

LEVEL = 0.95  # of the intervals

_RESAMPLES = 2000


def delta_interval(name: str, fit: dict[str, float], steps: ArrayLike, values: ArrayLike, at: ArrayLike) -> np.ndarray:
    """
    Return, as `[m, 2]`, between which values one measured at each of `[m]` steps would lie, with probability `LEVEL`.

    The curve is taken for the true one and its residuals for independent. The half width is Student's t times
    s sqrt(1 + g' (J'J)^-1 g), with the gradients J at the points and g at the step, and s^2 = residual sum of squares /
    (points - parameters) (delta method; Bates and Watts, 1988, section 2.3).
    """
    at_points = gradients(name, fit, steps)
    size = np.linalg.norm(at_points, axis=0)
    inverse = np.linalg.pinv(np.linalg.qr(at_points / size, mode="r"))
    leverage = ((gradients(name, fit, at) / size @ inverse) ** 2).sum(1)
    freedom = len(at_points) - at_points.shape[1]
    middle = curve(name, fit, at)
    noise = np.sqrt(((values - curve(name, fit, steps)) ** 2).sum() / freedom)
    half = stdtrit(freedom, (1 + LEVEL) / 2) * noise * np.sqrt(1 + leverage)
    return np.stack([middle - half, middle + half], axis=1)


def bootstrap_interval(name: str, fit: dict[str, float], steps: ArrayLike, values: ArrayLike, at: float) -> np.ndarray:
    """
    Return `[low, high]` at a step, as `delta_interval`, but for residuals that may hang together.

    Histories are made of the curve and of blocks of residuals that followed one another (moving blocks; Künsch, 1989),
    fitted again, and given one more residual at the step. They are drawn from a fixed seed.
    """
    x, generator, fitted = np.asarray(steps, dtype=float), np.random.default_rng(0), curve(name, fit, steps)
    residuals = (values - fitted) * np.sqrt(len(x) / (len(x) - len(fit) + 1))  # fitted ones are too small
    length = round(len(x) ** (1 / 3))
    starts = generator.integers(0, len(x) - length + 1, (_RESAMPLES, -(-len(x) // length), 1))
    drawn = residuals[starts + np.arange(length)].reshape(_RESAMPLES, -1)[:, : len(x)]
    forecasts = _forecast_each(name, x, fitted + drawn, at) + generator.choice(residuals, _RESAMPLES)
    return np.quantile(forecasts, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])


def _forecast_each(name: str, x: np.ndarray, histories: np.ndarray, at: float) -> np.ndarray:
    """Fit the curve to each history `[m, n]` and return its `[m]` values at a step. Near exponents will do."""
    if name != "power_law":
        return linear_parts(name, at, None) @ least_squares(linear_parts(name, x, None), histories.T)
    forecasts, nearest = np.empty(len(histories)), nearest_exponents(x, histories)
    for index in np.unique(nearest):
        c, which = float(EXPONENTS[index]), nearest == index
        forecasts[which] = linear_parts(name, at, c) @ least_squares(linear_parts(name, x, c), histories[which].T)
    return forecasts
