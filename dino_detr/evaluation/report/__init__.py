"""A folder that shows how good a detector is: one page, its figures and pictures, and the numbers behind them."""

import json
from pathlib import Path

import numpy as np
from datasets import Dataset, Image

from ...data.decoding import decode_image, describe_fault
from ...data.image_files import image_name, image_names
from ...runs.names import FIGURES, REPORT_HTML, REPORT_JSON
from ..coco.score import find_scorer, pack_detections, pack_objects, score
from ..errors import ERRORS, Errors, ImageMatches, find_errors, match_image, to_xywh
from ..evaluate import Evaluation
from .figures import draw_calibration, draw_classes, draw_confusion, draw_precision_recall
from .page import build_page

_MOST_PICTURES = 12
_MOST_PAIRS = 10  # of confused classes
_LONGEST_SIDE = 960  # pixels of a picture


def write_report(
    folder: str | Path,
    evaluated: dict[str, str],
    evaluation: Evaluation,
    why_no_pictures: str | None = None,
) -> dict:
    """
    Write `report.html`, `report.json`, the figures and, in `pictures/`, the images with the most errors.

    Args:
        folder: made if need be; files of these names in it are replaced.
        evaluated: what was: `checkpoint` or `results`, `data set`, `split`, as they are to be read.
        evaluation: detections and truth may be arrays or lists; an image without detections may be left out.
        why_no_pictures: said on the page where the evaluation has no rows.

    Returns:
        What `report.json` holds.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    detections, rows = evaluation.detections, evaluation.rows
    references = sorted(evaluation.truth, key=lambda entry: entry["image_id"])
    names = [str(name) for name in evaluation.figures["per_class"]]
    errors = find_errors(detections, references, len(names))
    precision = _precision(detections, references, len(names))
    worst, matches, unread = [], [], []
    if rows is not None:
        worst, matches, unread = _save_pictures(folder / "pictures", errors, detections, references, rows)
        scored = {entry["image_id"] for entry in references}
        files = zip(rows["image_id"], image_names(rows))
        unread += [f"{file}: left out of the figures" for image_id, file in files if image_id not in scored]
    counts = {"images": len(references), "detections": sum(len(entry["scores"]) for entry in detections)}
    report = _describe(evaluated, counts, evaluation.figures, names, errors, precision) | {
        "worst_images": worst,
        "pictures_left_out": why_no_pictures if rows is None else None,
        "unreadable_images": unread,
    }
    draw_precision_recall(precision["0.50"], names, folder / "precision_recall_50.svg")
    draw_precision_recall(precision["0.75"], names, folder / "precision_recall_75.svg")
    draw_classes(report["per_class"], folder / "classes.svg")
    draw_confusion(errors.confusion, names, folder / "confusion.svg")
    if errors.calibration is not None:
        draw_calibration(errors.calibration, folder / "calibration.svg")
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in report.items()]
    (folder / REPORT_JSON).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    (folder / REPORT_HTML).write_text(build_page(report, matches), encoding="utf-8", errors="replace")
    return report


def _describe(
    evaluated: dict[str, str],
    counts: dict[str, int],
    figures: dict,
    names: list[str],
    errors: Errors,
    precision: dict[str, np.ndarray],
) -> dict:
    """Return what `report.json` holds, but for the pictures. `counts` are of images and detections."""
    num_objects = errors.confusion[:-1].sum(axis=1).tolist()
    curves = {
        f"IoU {iou}": {name: _curve(values[:, label]) for label, name in enumerate(names)}
        for iou, values in precision.items()
    }
    return {
        "evaluated": {
            **evaluated,
            "images": counts["images"],
            "objects": sum(num_objects),
            "detections": counts["detections"],
        },
        "figures": {name: figures[name] for name in FIGURES},
        "per_class": {
            name: {**values, "objects": count}
            for name, values, count in zip(names, figures["per_class"].values(), num_objects)
        },
        "precision_recall": {"recalls": [round(recall, 2) for recall in np.linspace(0, 1, 101).tolist()], **curves},
        "operating_point": {"score": errors.threshold, "precision": errors.precision, "recall": errors.recall},
        "errors": {"right": int(errors.confusion.trace()), **dict(zip(ERRORS, errors.counts.sum(axis=0).tolist()))},
        "confusion": {"classes": [*names, "background"], "counts": errors.confusion.tolist()},
        "most_confused": _most_confused(errors.confusion, names),
        "calibration": errors.calibration,
    }


def _precision(detections: list[dict], references: list[dict], num_classes: int) -> dict[str, np.ndarray]:
    """At two IoUs, COCO's precision `[101, K]`, of objects of any size."""
    numbers = {entry["image_id"]: number for number, entry in enumerate(references)}

    def column(entries: list[dict], field: str) -> np.ndarray:
        return np.concatenate([np.empty(0), *(np.asarray(entry[field], dtype="f8") for entry in entries)])

    def images_and_boxes(entries: list[dict]) -> tuple[np.ndarray, np.ndarray]:
        images = [np.full(len(entry["labels"]), numbers[entry["image_id"]]) for entry in entries]
        boxes = [to_xywh(entry["boxes"]) for entry in entries]
        return np.concatenate([np.empty(0, dtype="i8"), *images]), np.concatenate([np.empty((0, 4)), *boxes])

    images, boxes = images_and_boxes(detections)
    packed_detections = pack_detections(images, column(detections, "labels"), column(detections, "scores"), boxes)
    images, boxes = images_and_boxes(references)
    columns = (column(references, field) for field in ("area", "iscrowd"))
    packed_objects = pack_objects(images, column(references, "labels"), boxes, *columns)
    precision = score([packed_detections], [packed_objects], range(num_classes), find_scorer("numpy")).precision[..., 0]
    return {"0.50": precision[0], "0.75": precision[5]}


def _curve(precision: np.ndarray) -> list[float] | None:
    return None if (precision < 0).any() else [round(value, 4) for value in precision.tolist()]


def _most_confused(confusion: np.ndarray, names: list[str]) -> list[dict]:
    """The most frequent pairs of an object's class and the class it was taken for."""
    mistaken = confusion[:-1, :-1] * (1 - np.eye(len(names), dtype=int))
    pairs = np.argwhere(mistaken)
    pairs = pairs[np.argsort(-mistaken[tuple(pairs.T)], kind="stable")][:_MOST_PAIRS]
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": int(mistaken[true, predicted]),
            "share": float(mistaken[true, predicted] / confusion[true].sum()),
        }
        for true, predicted in pairs
    ]


def _save_pictures(
    folder: Path, errors: Errors, detections: list[dict], references: list[dict], rows: Dataset
) -> tuple[list[dict], list[ImageMatches], list[str]]:
    """
    Save the images with the most errors.

    Returns:
        Entries of `worst_images`, their matches, and what was said of images that would be among them but cannot be
        read.
    """
    found = {entry["image_id"]: entry for entry in detections}
    positions = {image_id: index for index, image_id in enumerate(rows["image_id"])}
    undecoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    entries, matches, unread = [], [], []
    for number in np.argsort(-errors.counts.sum(axis=1), kind="stable"):
        counts, image_id = errors.counts[number].tolist(), references[number]["image_id"]
        if len(entries) == _MOST_PICTURES or not sum(counts):
            break
        if image_id not in positions:
            continue
        file = undecoded[positions[image_id]]["image"]
        try:
            image = decode_image(file)
        except OSError as fault:
            unread.append(f"{image_name(file, image_id)}: {describe_fault(fault)}")
            continue
        name = f"{len(entries) + 1:02}.jpg"
        folder.mkdir(exist_ok=True)
        width, height = image.size
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        image.save(folder / name, quality=85)
        entries.append(
            {
                "image_id": image_id,
                "file": Path(file["path"]).name if file["path"] else None,
                "picture": f"pictures/{name}",
                "width": width,
                "height": height,
                **dict(zip(ERRORS, counts)),
            }
        )
        threshold = np.inf if errors.threshold is None else errors.threshold
        matches.append(match_image(found.get(image_id), references[number], threshold))
    return entries, matches, unread
