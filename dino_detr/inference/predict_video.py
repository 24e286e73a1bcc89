"""What `dino-detr predict` does with a video: one with boxes, and a JSON line for each frame."""

import json
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from .detector import Detector
from .entries import to_entries
from .tracking import Tracker, with_track_names
from .video import Video, VideoWriter


def predict_video(
    detector: Detector, name: str, thresholds: Tensor, film: Path, track: bool = False, **options: Any
) -> dict:
    """
    Detect in every frame of a video.

    Frames are read, detected in and written a batch at a time. The files have their names only when they are whole.

    Args:
        name: the video.
        thresholds: of each class `[K]`.
        film: MP4 file to write; the lines of its frames go beside it, into a `.jsonl`: `{"frame", "time" s,
            "detections"}`, with the number of the `"track"` in each detection if they are tracked.
        track: follow objects from frame to frame.
        options: see `Detector.stream`.

    Returns:
        The video's entry of `detections.json`.

    Raises:
        ImportError: if PyAV, or what tracks, is not installed.
        OSError: if the video cannot be read to its end; nothing of it is left then.
    """
    video = Video(name)
    tracker = Tracker(thresholds, video.rate) if track else None
    lines = film.with_suffix(".jsonl")
    unfinished = [path.with_name(f".{path.name}") for path in (film, lines)]
    frames, counts, size = 0, Counter(), (0, 0)
    try:
        with ExitStack() as stack:
            writer = stack.enter_context(closing(VideoWriter(unfinished[0], video.rate)))
            file = stack.enter_context(open(unfinished[1], "w", encoding="utf-8"))
            # a bar only where somebody watches
            bar = stack.enter_context(tqdm(total=video.num_frames, desc=name, unit="frame", disable=None))
            for found in detector.stream(name, threshold=0, **options):
                frame: Any = found.source
                size = found.size
                kept, tracks = found[found.scores > thresholds[found.labels]], None
                if tracker is not None:
                    kept, tracks = tracker.update(found)
                drawn = kept if tracks is None else with_track_names(kept, tracks)
                writer.write(drawn.draw(), frame.time)
                line = {"frame": frame.index, "time": round(frame.time, 6), "detections": to_entries(kept, tracks)}
                file.write(json.dumps(line) + "\n")
                counts.update(kept.names)
                frames += 1
                bar.update()
        for path, final in zip(unfinished, (film, lines)):
            path.replace(final)
    finally:
        for path in unfinished:
            path.unlink(missing_ok=True)
    print(f"{name}: {counts.total()} detections in {frames} frames -> {film}")
    entry = {"image": name, "picture": film.name, "frame_lines": lines.name, "frames": frames}
    return entry | {"width": size[1], "height": size[0], "detections": []}
