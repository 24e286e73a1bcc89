"""The page of a report: HTML that needs nothing but the files beside it."""

from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from ... import __version__
from ...runs.names import FIGURES
from ..coco.table import MEANINGS, format_figure
from ..errors import ERRORS, ImageMatches
from .figures import MOST_BARS, MOST_CELLS

_COLORS = {  # as in the figures, but bright enough for dark pictures
    "right": "#1FC48D",
    "missed": "#FF6A1F",
    "wrong class": "#56B4E9",
    "badly placed": "#F0E442",
    "false": "#F08BC8",
    "crowd": "#B0B0B0",
}
_MEANINGS_OF_ERRORS = {
    "right": "the class is right and the boxes overlap: IoU at least 0.5",
    "missed": "an object that no detection is matched with",
    "wrong class": "a box on an object (IoU at least 0.5), called something else",
    "badly placed": "the right class, but IoU is only 0.1 to 0.5",
    "false": "nothing there, or a second box on an object",
}
_MOST_LABELLED = 12  # boxes of a picture; of more, only the wrong ones are called by name
_MOST_LETTERS = 22


def build_page(report: dict, matches: list[ImageMatches]) -> str:
    """
    Fill in `report.html.j2`.

    Args:
        report: what `report.json` holds.
        matches: of the images in `worst_images`.
    """
    name = report["evaluated"].get("checkpoint") or report["evaluated"]["results"]
    classes = report["per_class"]
    return render(
        "report.html.j2",
        **report,
        title=f"Evaluation of {name.rstrip('/').split('/')[-1]}",
        figure_names={"Average precision": FIGURES[:6], "Average recall": FIGURES[6:]},
        meanings_of_figures=MEANINGS,
        class_figures=[column for column in next(iter(classes.values()), {}) if column != "objects"],
        scored_classes=sum(values["AP"] >= 0 for values in classes.values()),
        most_bars=MOST_BARS,
        most_cells=MOST_CELLS,
        colors=_COLORS,
        error_names=[*ERRORS],
        meanings_of_errors=_MEANINGS_OF_ERRORS,
        pictures=[_picture(entry, found, [*classes]) for entry, found in zip(report["worst_images"], matches)],
    )


def render(template: str, **values: Any) -> str:
    """Fill in a template of this folder; what is filled in is escaped."""
    environment = Environment(
        loader=PackageLoader("dino_detr.evaluation.report", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": format_figure, "thousands": "{:,}".format}
    return environment.get_template(template).render(values, version=__version__)


def place_box(box: np.ndarray, verdict: str, text: str, tooltip: str, width: int, height: int, labelled: bool) -> dict:
    """
    Return a box as the page draws it over a picture.

    Args:
        box: x1, y1, x2, y2 in pixels.
        text, tooltip: what is written beside it, if anything, and what a pointer is told.
        width, height: of the picture, in pixels.
        labelled: whether the text is written of a right one, too.
    """
    x1, y1, x2, y2 = box
    corners = (x1, y1, x2 - x1, y2 - y1)
    drawn: dict = dict(zip(("x", "y", "width", "height"), (f"{value:.1f}" for value in corners)))
    drawn |= {"verdict": verdict, "tooltip": tooltip, "label": None}
    if text and (labelled or verdict not in ("right", "crowd")):
        size = font_size(width, height)
        anchor, left = ("end", min(x2, width)) if x1 > 0.6 * width else ("start", max(x1, 0))
        bottom = y1 - 0.35 * size if y1 > 1.4 * size else y1 + 1.1 * size
        if verdict == "false":  # below, where the label of the first box is not
            bottom = y2 + 1.1 * size if y2 < height - 1.4 * size else y2 - 0.4 * size
        short = text if len(text) <= 2 * _MOST_LETTERS else f"{text[: 2 * _MOST_LETTERS - 1]}…"
        drawn["label"] = {"x": f"{left:.1f}", "y": f"{bottom:.1f}", "anchor": anchor, "text": short}
    return drawn


def font_size(width: int, height: int) -> float:
    """Return the size of letters that are readable on a picture, in its pixels."""
    return max(width, 0.6 * height) * 0.034


def _picture(entry: dict, found: ImageMatches, names: list[str]) -> dict:
    """Return what the page shows of an image: its title, its file, and its boxes, in the truth and as detected."""
    errors = ", ".join(f"{entry[error]} {error}" for error in ERRORS if entry[error])
    file_name = f" ({entry['file']})" if entry["file"] else ""
    width, height = entry["width"], entry["height"]
    picture = {"title": f"Image {entry['image_id']}{file_name}: {errors}", "file": entry["picture"]}
    picture |= {"width": width, "height": height, "font_size": f"{font_size(width, height):.1f}"}
    truth = [
        (box, verdict, names[label], names[label])
        for box, verdict, label in zip(found.true_boxes, found.true_verdicts, found.true_labels)
    ]
    detected = []
    columns = (found.boxes, found.verdicts, found.labels, found.scores, found.partners)
    for box, verdict, label, score, partner in zip(*columns):
        text = f"{names[label][:_MOST_LETTERS]} {score:.2f}"
        if verdict == "wrong class":
            text += f", is {names[found.true_labels[partner]]}"
        detected.append((box, verdict, text, f"{names[label]} {score:.3f}"))
    detected.reverse()  # the best on top
    for side, boxes in (("truth", truth), ("detected", detected)):
        boxes.sort(key=lambda row: row[1] != "right")  # errors on top
        all_labelled = len(boxes) <= _MOST_LABELLED
        picture[side] = [place_box(*row, width, height, all_labelled) for row in boxes]
    return picture
