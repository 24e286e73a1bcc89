"""Label errors that a trained detector suspects: a page of crops, worst first, and a file to act on."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset, Image

from ..data import category_ids, class_names
from ..data.decoding import describe_fault
from ..data.image_files import image_name
from ..data.image_sources import ImageSource
from ..evaluation.report.label_page import LABEL_CHECK_HTML, SuspectInImage, write_label_page
from ..evaluation.suspects import find_suspects
from ..outputs import fill_folder, write_json
from .detections import Detection, Detections
from .detector import Detector

__all__ = ["LABEL_CHECK_HTML", "LABEL_CHECK_JSON", "check_labels"]

LABEL_CHECK_JSON = "label_check.json"


def check_labels(
    detector: Detector,
    splits: Mapping[str, Dataset],
    output: str | Path,
    dataset: str,
    checkpoint: str,
    batch_size: int = 8,
) -> dict:
    """
    Detect in every image, and write what contradicts its labels to `label_check.html` and `label_check.json`.

    Classes are joined by name. Those that only the data have are named once, and their boxes left out. So are images
    that cannot be read.

    Args:
        splits: checked rows by the name of their split, of several sources with the source before it.
        output: the folder to write to, which `claim_folder` has checked.
        dataset, checkpoint: what the data and the detector are called.
        batch_size: see `Detector.stream`.

    Returns:
        What `label_check.json` holds: `dataset`, `checkpoint`, `splits`, `threshold`, `images`, `boxes`,
        `classes_left_out`, `unreadable_images`, and `suspects`, worst first: `{"kind", "score", "split", "image",
        "image_id", "annotation_id", "category", "category_id", "bbox" [x, y, width, height] px, "detected_category",
        "detected_bbox", "detection_score", "crop"}`, None where there is none.

    Raises:
        ValueError: if a split has no class that the checkpoint knows.
    """
    left_out = _find_unknown_classes(checkpoint, detector, splits)
    if left_out:
        print(f"{checkpoint} does not know {', '.join(left_out)}: boxes of these are left out", file=sys.stderr)
    counts, unreadable, suspects = {"images": 0, "boxes": 0}, [], []
    for split, rows in splits.items():
        for position, (row, found) in enumerate(_detect(detector, rows, batch_size)):
            if isinstance(found, OSError):
                unreadable.append(f"{image_name(row['image'], row['image_id'])}: {describe_fault(found)}")
                print(f"{unreadable[-1]}: left out", file=sys.stderr)
                continue
            counts["images"] += 1
            counts["boxes"] += len(row["objects"]["id"])
            suspects += _find_in_image(row, found, detector.threshold, split, rows, position)
    suspects.sort(key=lambda suspect: -suspect.entry["score"])
    content = {"dataset": dataset, "checkpoint": checkpoint, "splits": list(splits), "threshold": detector.threshold}
    content |= {**counts, "classes_left_out": left_out, "unreadable_images": unreadable}
    content["suspects"] = [suspect.entry for suspect in suspects]
    with fill_folder(output) as folder:
        write_label_page(folder, content, suspects)
        write_json(folder / LABEL_CHECK_JSON, content)
    return content


def _find_unknown_classes(checkpoint: str, detector: Detector, splits: Mapping[str, Dataset]) -> list[str]:
    """Name the classes of the data that the detector does not know, each once."""
    known = [detector.id2label[label] for label in sorted(detector.id2label)]
    unknown: dict[str, None] = {}
    for split, rows in splits.items():
        names = class_names(rows)
        if not set(names) & set(known):
            raise ValueError(
                f"{checkpoint} knows none of the classes of {split}: it has {_shorten(known)}, {split} has "
                f"{_shorten(names)}; take a checkpoint trained on classes of these names"
            )
        unknown |= dict.fromkeys(name for name in names if name not in known)
    return list(unknown)


def _detect(detector: Detector, rows: Dataset, batch_size: int) -> Iterator[tuple[dict, Detections | OSError]]:
    """Yield each row, its image undecoded, and detections of every score or why its image cannot be read."""
    waiting: list[dict] = []  # of one batch

    def sources() -> Iterator[ImageSource]:
        for row in rows.cast_column("image", Image(decode=False)):
            assert isinstance(row, dict)
            waiting.append(row)
            yield ImageSource(image_name(row["image"], row["image_id"]), row["image"]["bytes"])

    for _, found in detector.detect(sources(), batch_size):
        yield waiting.pop(0), found


def _find_in_image(
    row: dict, found: Detections, threshold: float, split: str, rows: Dataset, position: int
) -> list[SuspectInImage]:
    """Find the suspects of an image, with what the page and the file say of them."""
    names, objects = class_names(rows), row["objects"]
    label_of = {name: label for label, name in enumerate(names)}
    known = {label_of[name] for name in found.id2label.values() if name in label_of}
    detection = {
        "scores": found.scores.numpy(),
        "labels": np.array([label_of.get(name, -1) for name in found.names], dtype="i8"),
        "boxes": found.boxes.numpy(),
    }
    annotated = np.array(objects["bbox"], dtype="f8").reshape(-1, 4)
    corners = np.concatenate([annotated[:, :2], annotated[:, :2] + annotated[:, 2:]], axis=1)
    reference = {"labels": objects["category"], "boxes": corners, "iscrowd": objects["iscrowd"]}
    suspects, confident = find_suspects(detection, reference, threshold, known)
    beside = [*found[confident]]
    place = {"split": split, "image": row["image"]["path"], "image_id": row["image_id"]}
    results = []
    for kind, score, box, detected in suspects:
        entry = {"kind": kind, "score": round(score, 4), **place}
        entry |= _describe_box(objects, box, rows) | _describe_detection(beside, detected)
        entry["crop"] = None  # until the page has one
        results.append(SuspectInImage(entry, rows, position, box, beside, detected))
    return results


def _describe_box(objects: dict, box: int | None, rows: Dataset) -> dict:
    names = ("annotation_id", "category", "category_id", "bbox")
    if box is None:
        return dict.fromkeys(names)
    label = objects["category"][box]
    return dict(
        zip(names, (objects["id"][box], class_names(rows)[label], category_ids(rows)[label], objects["bbox"][box]))
    )


def _describe_detection(confident: list[Detection], detected: int | None) -> dict:
    names = ("detected_category", "detected_bbox", "detection_score")
    if detected is None:
        return dict.fromkeys(names)
    found = confident[detected]
    x1, y1, x2, y2 = found.box
    return dict(zip(names, (found.name, [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)], round(found.score, 4))))


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
