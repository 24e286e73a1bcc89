"""The score from which a detector's detections are worth showing: one for the report, the pictures and `predict`."""

import math
from pathlib import Path

from ..runs.checkpoint import find_file
from ..runs.history import read_mapping
from ..runs.names import FIGURES_JSON

DEFAULT_THRESHOLD = 0.5  # of a checkpoint that does not know its own


def readable_threshold(score: float | None) -> float:
    """Return a report's operating point as a threshold of three digits that its detections are above."""
    if score is None:
        return DEFAULT_THRESHOLD
    return max(math.ceil(score * 1000) - 1, 0) / 1000


def read_threshold(checkpoint: str | Path) -> float:
    """Return the threshold in the `figures.json` of a checkpoint, folder or Hub id; without one, 0.5."""
    figures = find_file(checkpoint, FIGURES_JSON)
    try:
        threshold = read_mapping(figures).get("threshold") if figures else None
    except (OSError, ValueError):
        return DEFAULT_THRESHOLD
    if isinstance(threshold, (int, float)) and 0 <= threshold <= 1:
        return float(threshold)
    return DEFAULT_THRESHOLD
