"""The precision and recall of one class by pycocotools itself."""

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def precision_and_recall(found: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute what `scoring_numpy.precision_and_recall` does, in twenty times the time, with a kilobyte a detection."""
    columns = (wanted["image"], wanted["box"], wanted["area"], wanted["crowd"])
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        # ids from 1: pycocotools takes a match with annotation 0 for none
        for number, (image, box, area, crowd) in enumerate(zip(*(c.tolist() for c in columns)), start=1)
    ]
    images = [{"id": int(image)} for image in np.union1d(found["image"], wanted["image"])]
    rows = np.column_stack([found["image"], found["box"], found["score"], np.ones(len(found))]).astype(np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()
        judged: Any = COCO()
        truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1}]}
        truth.createIndex()
        if len(rows):
            judged = truth.loadRes(rows)
        else:  # which loadRes cannot read
            judged.dataset = {**truth.dataset, "annotations": []}
            judged.createIndex()
        evaluation = COCOeval(truth, judged, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    return precision[:, :, 0, :, 2], recall[:, 0]
