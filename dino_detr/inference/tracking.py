"""Objects followed from frame to frame."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .detections import Detections


class Tracker:
    """
    ByteTrack, as the package `trackers` has it: which detections of successive frames are of one object.

    Args:
        thresholds: score of each class index `[K]`, above which a detection counts.
        rate: frames a second.

    Raises:
        ImportError: if `trackers` is not installed.
    """

    def __init__(self, thresholds: Tensor, rate: Fraction):
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ImportError("--track needs trackers: pip install 'dino-detr[video]'") from error
        self._thresholds = thresholds
        least = thresholds.min().item()
        self._tracker = ByteTrackTracker(
            frame_rate=float(rate), track_activation_threshold=least, high_conf_det_threshold=least
        )

    def update(self, found: Detections) -> tuple[Detections, list[int | None]]:
        """
        Take the detections of the next frame, of every score.

        Returns:
            Those above their threshold and those above half of it that go on with a track; and the number of each
            one's track, None where it has none (yet).
        """
        found = found[found.scores > self._thresholds[found.labels] / 2]
        given: Any = found.to_supervision()
        given.data["index"] = np.arange(len(found))
        followed: Any = self._tracker.update(given)
        tracks: list[int | None] = [None] * len(found)
        for index, track in zip(followed.data.get("index", []), followed.tracker_id):
            tracks[int(index)] = int(track) if track >= 0 else None
        above = (found.scores > self._thresholds[found.labels]).tolist()
        kept = [index for index in range(len(found)) if above[index] or tracks[index] is not None]
        return found[kept], [tracks[index] for index in kept]


def with_track_names(found: Detections, tracks: list[int | None]) -> Detections:
    """Return detections to be drawn with the number of their track beside their name, and in its colour."""
    labels = [-1 - index if track is None else track for index, track in enumerate(tracks)]
    names = [name if track is None else f"{name} #{track}" for name, track in zip(found.names, tracks)]
    return replace(found, labels=torch.tensor(labels, dtype=torch.int64), id2label=dict(zip(labels, names)))
