"""COCO result files: detections written as one, one scored against its annotations, and figures as a table."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

from .coco_score import FIGURES, find_scorer, pack_detections, pack_objects, score

_FILE = {"images", "annotations", "categories"}  # what an annotation file has
_ROW = {"image_id", "category_id", "bbox", "score"}  # what a result has


def score_results(results: list[dict], annotations: dict, scorer: str = "numpy") -> dict:
    """COCO's figures for a result file.

    Args:
        results: what a COCO result file holds, `[{image_id, category_id, bbox [x, y, width, height] px, score}]`.
        annotations: what the COCO annotation file holds, `{images, annotations, categories}`. `area` and `iscrowd` may
            be missing: then the box's area, and no crowd. Annotations of no image or category, or of one that is not
            listed, are left out. Annotation ids are not used, so 0 and duplicates do no harm.
        scorer: `"numpy"`, or `"pycocotools"` for the same numbers from pycocotools itself, in twenty times the time.

    Returns:
        What `CocoDetectionMetric.compute` returns; `per_class` has the categories' names, in the order of their ids.

    Raises:
        ValueError: naming the row and the field: a result is of an image or a category that the annotations do not
            have, has no box, or something is no such number; or either is no COCO file.
    """
    missing = _FILE - (annotations.keys() if isinstance(annotations, dict) else set())
    if missing:
        raise ValueError(
            f"the annotations have no {', '.join(sorted(missing))}; a COCO annotation file is a JSON object with "
            f"{', '.join(sorted(_FILE))}"
        )
    if not isinstance(results, list):
        raise ValueError("the results are no list; a COCO results file is a JSON list of rows, one a detection")
    images = {image_id: index for index, image_id in enumerate(sorted({i["id"] for i in annotations["images"]}))}
    names = {c["id"]: c.get("name", c["id"]) for c in sorted(annotations["categories"], key=lambda c: c["id"])}
    labels = {category_id: label for label, category_id in enumerate(names)}
    for number, row in enumerate(results):
        _check_row(row, number, images, labels)

    objects = scored_annotations(annotations)

    def annotation_name(number: int) -> str:
        return f"annotation {objects[number].get('id')!r} of image {objects[number]['image_id']!r}"

    def result_name(number: int) -> str:
        return f"results[{number}]"

    boxes = _numbers([o.get("bbox") for o in objects], annotation_name, "bbox", 4)
    packed_objects = pack_objects(
        images=[images[o["image_id"]] for o in objects],
        labels=[labels[o["category_id"]] for o in objects],
        boxes=boxes,
        areas=_numbers([o.get("area", w * h) for o, (_, _, w, h) in zip(objects, boxes)], annotation_name, "area"),
        crowds=[o.get("iscrowd", 0) for o in objects],
    )
    packed_detections = pack_detections(
        images=np.array([images[row["image_id"]] for row in results], dtype="i8"),
        labels=np.array([labels[row["category_id"]] for row in results], dtype="i8"),
        scores=_numbers([row["score"] for row in results], result_name, "score"),
        boxes=_numbers([row["bbox"] for row in results], result_name, "bbox", 4),
    )
    result = score([packed_detections], [packed_objects], labels.values(), find_scorer(scorer))
    return {**result.figures, "per_class": dict(zip(distinct_names(names), result.per_class))}


def scored_annotations(annotations: dict) -> list[dict]:
    """Of what a COCO annotation file holds, the annotations of images and categories that it lists."""
    images, categories = ({entry["id"] for entry in annotations[name]} for name in ("images", "categories"))
    return [
        entry
        for entry in annotations["annotations"]
        if entry.get("image_id") in images and entry.get("category_id") in categories
    ]


def to_coco_results(predictions: list[dict], category_ids: list) -> list[dict]:
    """Detections as the rows of a COCO result file.

    Args:
        predictions: per image `{image_id, boxes [n, 4] xyxy px, scores [n], labels [n]}`, labels being class indices.
        category_ids: the data set's own id of every class index.

    Returns:
        `[{image_id, category_id, bbox [x, y, width, height] px, score}]`, ready for JSON.

    Raises:
        ValueError: a label has no category id.
    """
    rows = []
    for prediction in predictions:
        image_id = plain_id(prediction["image_id"])
        columns = (torch.as_tensor(prediction[name]).tolist() for name in ("boxes", "scores", "labels"))
        for (x1, y1, x2, y2), row_score, label in zip(*columns, strict=True):
            if not 0 <= label < len(category_ids):
                raise ValueError(
                    f"predictions of image {image_id!r}: label {label} is not one of the {len(category_ids)} classes; "
                    "give every class index its id in category_ids"
                )
            # Coarser rounding would make equal scores and move boxes across IoU thresholds: a different AP.
            bbox = [round(value, 4) for value in (x1, y1, x2 - x1, y2 - y1)]
            rows.append(
                {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": round(row_score, 8)}
            )
    return rows


def format_table(figures: dict) -> str:
    """The figures of `score_results` or `CocoDetectionMetric.compute` as text; `-`: no object to find."""
    headings = ("IoU .50:.95", "IoU .50", "IoU .75", "small", "medium", "large")
    recall_headings = ("1 box", "10 boxes", "100 boxes", "small", "medium", "large")
    lines = [
        _line("", headings),
        _line("Average precision", [format_figure(figures[name]) for name in FIGURES[:6]]),
        "",
        _line("", recall_headings),
        _line("Average recall", [format_figure(figures[name]) for name in FIGURES[6:]]),
    ]
    if figures["per_class"]:
        lines += ["", _line("Class", FIGURES[:6])]
        lines += [
            _line(name, [format_figure(c[key]) for key in FIGURES[:6]]) for name, c in figures["per_class"].items()
        ]
    return "\n".join(lines)


def distinct_names(names: dict) -> list:
    """The names of `{id: name}`, with the id added to those that occur twice."""
    count = Counter(names.values())
    return [name if count[name] == 1 else f"{name} ({key})" for key, name in names.items()]


def plain_id(image_id):
    """An image id as Python's own int or str, also from a tensor or a numpy scalar."""
    return image_id.item() if hasattr(image_id, "item") else image_id


def _check_row(row: dict, number: int, images: dict, labels: dict) -> None:
    missing = _ROW - (row.keys() if isinstance(row, dict) else set())
    if missing:
        hint = "; masks alone are not scored: add the boxes" if missing == {"bbox"} and "segmentation" in row else ""
        raise ValueError(
            f"results[{number}] has no {', '.join(sorted(missing))}; COCO results need it in every row{hint}"
        )
    for field, known in (("image_id", images), ("category_id", labels)):
        if row[field] in known:
            continue
        fix = "give the annotation file of the split that these results were made from"
        if str(row[field]) in map(str, known):
            fix = f"there it is a {'text' if isinstance(row[field], int) else 'number'}: write it so in the results"
        raise ValueError(f"results[{number}]: {field} {row[field]!r} is not in the annotations; {fix}")


def _numbers(values: list, where: Callable[[int], str], field: str, *shape: int) -> np.ndarray:
    """Of each row a number, or as many as `shape` says: float64 `[n, *shape]`. `where` names a row."""

    def convert(values: list) -> np.ndarray:
        numbers = np.array(values, dtype="f8").reshape(len(values), *shape)
        if not np.isfinite(numbers).all():
            raise ValueError
        return numbers

    try:
        return convert(values)
    except (TypeError, ValueError):
        for number, value in enumerate(values):
            try:
                convert([value])
            except (TypeError, ValueError):
                form = "[x, y, width, height] in pixels" if shape else "a finite number"
                raise ValueError(f"{where(number)}: {field} is {value!r}; it must be {form}") from None
        raise


def _line(name, cells) -> str:
    return (f"{str(name)[:24]:<24}" + "".join(f"{cell:>13}" for cell in cells)).rstrip()


def format_figure(value: float | None) -> str:
    """With three digits; `-` where there is nothing to measure: None, or COCO's -1."""
    return "-" if value is None or value < 0 else f"{value:.3f}"
