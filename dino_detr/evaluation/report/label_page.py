"""The page of labels that a detector suspects: crops of the images, worst first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Image

from ...data import class_names
from ...data.decoding import decode_image
from ..suspects import KINDS
from .page import font_size, place_box, render

LABEL_CHECK_HTML = "label_check.html"
MAX_CROPS = 100

_COLORS = {
    "missing box": "#FF4FD8",
    "spurious box": "#FF6A1F",
    "wrong class": "#56B4E9",
    "badly placed box": "#F0E442",
    "other": "#B0B0B0",
}
_MARGIN = 0.75  # around the boxes of a suspect, as a share of their longer side
_SMALLEST_MARGIN = 24  # pixels
_LONGEST_SIDE = 480  # pixels of a crop's file


class SuspectInImage(NamedTuple):
    """
    A suspect, and where to look at it.

    Args:
        entry: of `label_check.json`. Its `crop` is filled in by the page.
        rows, position: the data and the row that it is of.
        box: index among the row's objects; None of a missing one.
        confident: class, score 0..1, class index and box xyxy in pixels of each confident detection of the image.
        detected: index among them; None of a spurious box.
    """

    entry: dict
    rows: Dataset
    position: int
    box: int | None
    confident: Sequence[tuple[str, float, int, tuple[float, float, float, float]]]
    detected: int | None


def write_label_page(folder: Path, content: dict, suspects: list[SuspectInImage]) -> None:
    """
    Write `label_check.html` and, in `crops/`, a picture of each of the first 100 suspects.

    Args:
        folder: to write to.
        content: what `label_check.json` holds.
        suspects: worst first.
    """
    pictures = []
    for suspect in suspects[:MAX_CROPS]:
        name = f"crops/{len(pictures) + 1:03}.jpg"
        try:
            pictures.append(_save_crop(suspect, folder, name))
        except OSError:  # it could be read a moment ago
            continue
        suspect.entry["crop"] = name
    counts = {kind: sum(suspect.entry["kind"] == kind for suspect in suspects) for kind in KINDS}
    name = content["checkpoint"].rstrip("/").split("/")[-1]
    page = render(
        "label_check.html.j2",
        **content,
        title=f"Labels that {name} doubts",
        counts=counts,
        kinds=KINDS,
        colors=_COLORS,
        pictures=pictures,
    )
    (folder / LABEL_CHECK_HTML).write_text(page, encoding="utf-8", errors="replace")


def _save_crop(suspect: SuspectInImage, folder: Path, name: str) -> dict:
    """Save the part of the image around a suspect, and return what the page shows of it."""
    entry, names = suspect.entry, class_names(suspect.rows)
    columns: Any = suspect.rows.select_columns(["image", "objects"]).cast_column("image", Image(decode=False))
    row = columns[suspect.position]
    image = decode_image(row["image"])
    x1, y1, x2, y2 = place = _place_crop(entry, image.size)
    crop = image.crop(place)
    crop.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    (folder / name).parent.mkdir(exist_ok=True)
    crop.save(folder / name, quality=90)

    width, height, kind = x2 - x1, y2 - y1, entry["kind"]
    annotated, detected = [], []
    for index, (box, label) in enumerate(zip(row["objects"]["bbox"], row["objects"]["category"])):
        verdict = kind if index == suspect.box else "other"
        annotated.append((_to_corners(box), verdict, names[label]))
    for index, (label, score, _, box) in enumerate(suspect.confident):
        verdict = kind if index == suspect.detected else "other"
        detected.append((np.array(box), verdict, f"{label} {score:.3f}"))
    picture = {"file": name, "width": width, "height": height, "font_size": f"{font_size(width, height):.1f}"}
    picture |= {"entry": entry, "image": Path(entry["image"]).name if entry["image"] else None}
    for side, boxes in (("annotated", annotated), ("detected", detected)):
        boxes.sort(key=lambda row: row[1] != "other")  # the suspect on top
        within = [(box - np.array([x1, y1, x1, y1]), verdict, tooltip) for box, verdict, tooltip in boxes]
        picture[side] = [
            place_box(box, verdict, "", tooltip, width, height, labelled=False)  # captions have the names
            for box, verdict, tooltip in within
            if (box[:2] < (width, height)).all() and (box[2:] > 0).all()
        ]
    return picture


def _place_crop(entry: dict, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the corners x1, y1, x2, y2, in pixels, of what to show of an image of this width and height."""
    boxes = np.stack([_to_corners(box) for box in (entry["bbox"], entry["detected_bbox"]) if box is not None])
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    margin = max(_MARGIN * (high - low).max(), _SMALLEST_MARGIN)
    x1, y1 = np.clip(np.floor(low - margin), 0, np.array(size) - 1).astype(int).tolist()
    x2, y2 = np.clip(np.ceil(high + margin), 1, size).astype(int).tolist()
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _to_corners(box: list[float]) -> np.ndarray:
    x, y, width, height = box
    return np.array([x, y, x + width, y + height])
