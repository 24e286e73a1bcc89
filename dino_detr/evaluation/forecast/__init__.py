"""How AP goes on: curves fitted to a run's history, and how far they can be believed."""

from .curves import CURVES, curve, fit_learning_curve
from .forecasting import forecast_ap, format_forecast
from .intervals import bootstrap_interval, delta_interval

__all__ = [
    "CURVES",
    "bootstrap_interval",
    "curve",
    "delta_interval",
    "fit_learning_curve",
    "forecast_ap",
    "format_forecast",
]
