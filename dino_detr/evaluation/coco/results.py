"""COCO result files: detections written as one, and one scored against its annotations."""

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import torch

from ...data.findings import Findings
from ...data.numbers import number_ids, read_box, read_number, read_whole, shown
from ...data.sources.annotation_json import LISTS
from ...data.sources.box_forms import NORMALISED
from ...data.sources.coco import clean_annotations
from ...data.sources.coco_reader import is_plain_box
from .score import find_scorer, pack_detections, pack_objects, score

_FEW = 5  # boxes: too few to see that they are normalised
_ROW = {"image_id", "category_id", "bbox", "score"}  # what a result has


def score_results(
    results: list[dict], annotations: dict, scorer: str = "numpy", findings: Findings | None = None
) -> dict:
    """Compute COCO's figures for a result file.

    Args:
        results: what a COCO result file holds, `[{image_id, category_id, bbox [x, y, width, height] px, score}]`.
        annotations: what the COCO annotation file holds, `{images, annotations, categories}`, read as for training: see
            `clean_annotations`. `area` and `iscrowd` may be missing: then the box's area, and no crowd. Annotations of
            no image or category, or of one that is not listed, are left out, and so are boxes without an extent.
            Annotation ids are not used, so 0 and duplicates do no harm.
        scorer: `"numpy"`, or `"pycocotools"` for the same numbers from pycocotools itself, in twenty times the time.
        findings: gets what is left out or filled in of the annotations.

    Returns:
        What `CocoDetectionMetric.compute` returns; `per_class` has the categories' names, in the order of their ids.

    Raises:
        ValueError: naming the row and the field: a result is of an image or a category that the annotations do not
            have, has no box, or something is no such number; or either is no COCO file.
    """
    return score_cleaned(*clean_results(results, annotations, findings), scorer)


def score_cleaned(results: list[dict], annotations: dict, scorer: str = "numpy") -> dict:
    """Compute what `score_results` does, of results and annotations as `clean_results` returns them."""
    images = {id_: number for number, id_ in enumerate(_sorted_ids(annotations["images"]))}
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    names = {id_: names[id_] for id_ in _sorted_ids(annotations["categories"])}
    labels = {id_: label for label, id_ in enumerate(names)}

    def column(rows: list[dict], field: str, *shape: int) -> np.ndarray:
        return np.array([row[field] for row in rows], dtype="f8").reshape(len(rows), *shape)

    def places(rows: list[dict]) -> dict[str, Any]:
        return {
            "images": np.array([images[row["image_id"]] for row in rows], dtype="i8"),
            "labels": np.array([labels[row["category_id"]] for row in rows], dtype="i8"),
            "boxes": column(rows, "bbox", 4),
        }

    objects = annotations["annotations"]
    packed_objects = pack_objects(
        **places(objects), areas=column(objects, "area"), crowds=[entry["iscrowd"] for entry in objects]
    )
    packed_detections = pack_detections(scores=column(results, "score"), **places(results))  # pyright: ignore[reportArgumentType]
    result = score([packed_detections], [packed_objects], labels.values(), find_scorer(scorer))
    return {**result.figures, "per_class": dict(zip(distinct_names(names), result.per_class))}


def clean_results(results: list[dict], annotations: dict, findings: Findings | None = None) -> tuple[list[dict], dict]:
    """Return results and annotations, both as `score_results` takes them, as they are understood.

    Numbers are numbers, ids those of the annotations, which are as `clean_annotations` gives them.

    Raises:
        As `score_results`.
    """
    lists = annotations if isinstance(annotations, dict) else {}
    missing = sorted(name for name in LISTS if not isinstance(lists.get(name), list))
    if missing:
        no_list = [f"{name} is no list" for name in missing if name in lists]
        what = f" ({', '.join(no_list)})" if no_list else ""
        raise ValueError(
            f"the annotations have no {', '.join(missing)}{what}; a COCO annotation file is a JSON object with the "
            f"lists {', '.join(sorted(LISTS))}"
        )
    if not isinstance(results, list):
        raise ValueError("the results are no list; a COCO results file is a JSON list of rows, one a detection")
    found = Findings()
    cleaned = clean_annotations(annotations, found, "the annotations")
    if annotations["annotations"] and not cleaned["annotations"]:
        _refuse_if_boxless(found)
    if findings is not None:
        findings.update(found)
    finders = {
        "image_id": _Finder(cleaned["images"], found, "unusable_image"),
        "category_id": _Finder(cleaned["categories"], found, "unusable_category"),
    }
    rows = [_read_row(row, number, finders) for number, row in enumerate(results)]
    _refuse_other_units(rows, cleaned["annotations"])
    return rows, cleaned


def images_of_results(results: list[dict], annotations: dict) -> tuple[list[dict], list[dict]]:
    """
    Sort the rows of a result file and its annotations, both as `clean_results` returns them, by image.

    Returns:
        Detections and truth as of `Evaluation`; labels are the ranks of the category ids. Image ids that
        are text have the numbers that they have in rows.
    """
    images, categories = (number_ids(e["id"] for e in annotations[name]) for name in ("images", "categories"))
    labels = {id_: label for label, id_ in enumerate(sorted(categories, key=lambda id_: categories[id_]))}
    found, wanted = defaultdict(list), {number: [] for number in images.values()}
    for row in results:
        found[images[row["image_id"]]].append(row)
    for entry in annotations["annotations"]:
        wanted[images[entry["image_id"]]].append(entry)

    def columns(image_id: int, entries: list[dict]) -> dict:
        boxes = np.array([entry["bbox"] for entry in entries], dtype="f8").reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return {"image_id": image_id, "boxes": boxes, "labels": [labels[entry["category_id"]] for entry in entries]}

    detections = [
        {**columns(image_id, entries), "scores": [entry["score"] for entry in entries]}
        for image_id, entries in found.items()
    ]
    references = [
        {
            **columns(image_id, entries),
            "area": [entry["area"] for entry in entries],
            "iscrowd": [entry["iscrowd"] for entry in entries],
        }
        for image_id, entries in wanted.items()
    ]
    return detections, references


def to_coco_results(predictions: list[dict], category_ids: list) -> list[dict]:
    """Return detections as the rows of a COCO result file.

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


def distinct_names(names: dict) -> list:
    """Return the names of `{id: name}`, with the id added to those that occur twice."""
    count = Counter(names.values())
    return [name if count[name] == 1 else f"{name} ({key})" for key, name in names.items()]


def plain_id(image_id: Any) -> Any:
    """Return an image id as Python's own int or str, also from a tensor or a numpy scalar."""
    return image_id.item() if hasattr(image_id, "item") else image_id


class _Finder:
    """Finds the ids of a list, however they are written; says what may be why one is not there."""

    def __init__(self, entries: list[dict], findings: Findings, unusable: str):
        unusable_values = [f.examples[0].value for f in findings.sorted() if f.kind == unusable]
        self.advice = "give the annotation file of the split that these results were made from"
        if unusable_values:
            self.advice = f"its {unusable_values[0]}; else {self.advice}"
        self._ids = {entry["id"] for entry in entries}
        # the numbers that training gives to ids that are text, and writes to results files
        self._by_number = {number: id_ for id_, number in number_ids(self._ids).items()}

    def find(self, value: Any) -> int | str | None:
        value = value.strip() if isinstance(value, str) else plain_id(value)
        if type(value) in (int, str) and value in self._ids:
            return value
        number = read_whole(value)
        return None if number is None else self._by_number.get(number)


def _read_row(row: Any, number: int, finders: dict[str, _Finder]) -> dict:
    """Return a row with numbers as numbers; the row itself where they are."""
    missing = _ROW - (row.keys() if isinstance(row, dict) else set())
    if missing:
        hint = "; masks alone are not scored: add the boxes" if missing == {"bbox"} and "segmentation" in row else ""
        raise ValueError(
            f"results[{number}] has no {', '.join(sorted(missing))}; COCO results need it in every row{hint}"
        )
    ids = {field: finder.find(row[field]) for field, finder in finders.items()}
    for field, id_ in ids.items():
        if id_ is None:
            given = shown(row[field])
            raise ValueError(f"results[{number}]: {field} {given} is not in the annotations; {finders[field].advice}")
    box, score = row["bbox"], row["score"]
    if not is_plain_box(box):
        box = read_box(box)
        if box is None or not is_plain_box(box):
            raise ValueError(
                f"results[{number}]: bbox is {shown(row['bbox'])}; it must be [x, y, width, height] in pixels"
            )
    if type(score) is not float:
        score = read_number(score)
    if score is None or not math.isfinite(score):
        raise ValueError(f"results[{number}]: score is {shown(row['score'])}; it must be a finite number")
    cleaned = {**ids, "bbox": box, "score": score}
    return row if all(row[field] is value for field, value in cleaned.items()) else cleaned


def _refuse_if_boxless(findings: Findings) -> None:
    """Refuse a file of masks or captions, in which no annotation has a box to score against."""
    for finding in findings.sorted():
        if finding.kind == "malformed_box":
            image, annotation_id, value = finding.examples[0]
            fault = value if str(value).startswith("bbox ") else f"bbox is {value}"
            raise ValueError(
                f"annotation {annotation_id} of {image}: {fault}; it must be [x, y, width, height] in pixels"
            )


def _refuse_other_units(results: list[dict], objects: list[dict]) -> None:
    """Refuse boxes in 0..1 against boxes in pixels: they would score 0 and look like a bad detector."""
    largest = {}
    for name, rows in (("results", results), ("annotations", objects)):
        boxes = np.array([row["bbox"] for row in rows], dtype="f8").reshape(-1, 4)
        largest[name] = boxes.max(initial=0) if len(boxes) >= _FEW else None
    if None in largest.values():
        return
    for name, other in (("results", "annotations"), ("annotations", "results")):
        if largest[name] <= NORMALISED < largest[other]:
            raise ValueError(
                f"no box of the {name} has a value above {largest[name]:.4g}, those of the {other} go to "
                f"{largest[other]:.6g}: the {name} are normalised, not in pixels"
            )


def _sorted_ids(entries: list[dict]) -> list:
    """Return the ids, numbers before names, in the order in which `number_ids` numbers them."""
    return sorted((entry["id"] for entry in entries), key=lambda id_: (isinstance(id_, str), id_))
