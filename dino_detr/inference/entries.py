"""Detections as JSON lists them."""

from .detections import Detections


def to_entries(found: Detections, tracks: list[int | None] | None = None) -> list[dict]:
    """
    Return `{"label", "category_id", "score", "box" [x1, y1, x2, y2] px}` of each detection.

    Args:
        tracks: number of each one's track, which becomes its `"track"`; None: they have none.
    """
    entries = [
        {
            "label": name,
            "category_id": found.category_ids[label],
            "score": round(score, 8),  # coarser ones would give another AP
            "box": [round(value, 4) for value in box],
        }
        for name, score, label, box in found
    ]
    if tracks is not None:
        entries = [entry | {"track": track} for entry, track in zip(entries, tracks)]
    return entries
