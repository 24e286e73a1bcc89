"""Random COCO data and results, and what pycocotools itself says of them."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CATEGORY_IDS = [2, 3, 17, 90]


def make_data(seed, num_images=30, objects=8, detections=40, categories=4, crowds=0.1, score_digits=None):
    """A COCO annotation dict and results of a middling detector, on a grid of 1/8 pixel that float32 holds exactly.

    The last of the categories has no objects, every fifth image, the first among them, has none.
    """
    rng = np.random.default_rng(seed)
    ids = CATEGORY_IDS[:categories]
    images = [{"id": int(i), "width": 640, "height": 640} for i in rng.permutation(1000)[:num_images]]
    annotations, results = [], []

    def grid(box):
        return [round(float(value) * 8) / 8 for value in box]

    def detect(image, category, box):
        score = float(np.float32(rng.uniform(0.001, 1)))
        score = score if score_digits is None else round(score, score_digits)
        results.append({"image_id": image["id"], "category_id": category, "bbox": grid(box), "score": score})

    for number, image in enumerate(images):
        here = []
        for _ in range(rng.integers(1, 2 * objects) if number % 5 else 0):
            box = grid([*rng.uniform(0, 400, 2), *np.exp(rng.uniform(1.5, 5.5, 2))])
            category = int(rng.choice(ids[:-1]))
            here.append((category, box))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3] * float(rng.uniform(0.4, 1)),
                    "iscrowd": int(rng.random() < crowds),
                }
            )
        for _ in range(detections):
            if here and rng.random() < 0.6:
                category, box = here[rng.integers(len(here))]
                moved = np.array(box) + rng.normal(0, 0.1, 4) * min(box[2:]) * rng.integers(0, 2)
                detect(image, category, np.maximum(moved, 1))
            else:
                detect(image, int(rng.choice(ids)), [*rng.uniform(0, 400, 2), *np.exp(rng.uniform(1.5, 5.5, 2))])
    names = [{"id": i, "name": f"class {i}"} for i in ids]
    return {"images": images, "annotations": annotations, "categories": names[::-1]}, results


def pycocotools_figures(annotations, results, folder):
    (folder / "annotations.json").write_text(json.dumps(annotations))
    (folder / "results.json").write_text(json.dumps(results))
    truth = COCO(str(folder / "annotations.json"))
    if results:
        found = truth.loadRes(str(folder / "results.json"))
    else:  # loadRes cannot read an empty list
        found = COCO()
        found.dataset = {**annotations, "annotations": []}
        found.createIndex()
    judge = COCOeval(truth, found, "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    precision = judge.eval["precision"]  # thresholds, recall points, classes, areas, most detections

    def mean(values):
        return values[values > -1].mean() if (values > -1).any() else -1

    names = {c["id"]: c["name"] for c in annotations["categories"]}
    per_class = {
        names[category_id]: {
            "AP": mean(precision[:, :, k, 0, 2]),
            "AP50": mean(precision[0, :, k, 0, 2]),
            "AP75": mean(precision[5, :, k, 0, 2]),
            "APs": mean(precision[:, :, k, 1, 2]),
            "APm": mean(precision[:, :, k, 2, 2]),
            "APl": mean(precision[:, :, k, 3, 2]),
        }
        for k, category_id in enumerate(judge.params.catIds)
    }
    return {**dict(zip(FIGURES, judge.stats)), "per_class": per_class}


def as_batch(annotations, results, images):
    """The metric's own input: per image, corner boxes and class indices."""
    index = {category_id: i for i, category_id in enumerate(sorted(c["id"] for c in annotations["categories"]))}

    def rows(all_rows, image):
        mine = [row for row in all_rows if row["image_id"] == image["id"]]
        boxes = torch.tensor([row["bbox"] for row in mine]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([index[row["category_id"]] for row in mine], dtype=torch.int64)
        return mine, {"image_id": image["id"], "boxes": boxes, "labels": labels}

    predictions, references = [], []
    for image in images:
        mine, entry = rows(results, image)
        predictions.append({**entry, "scores": torch.tensor([row["score"] for row in mine])})
        mine, entry = rows(annotations["annotations"], image)
        references.append(
            {**entry, "area": [a["area"] for a in mine], "iscrowd": np.array([a["iscrowd"] for a in mine])}
        )
    return predictions, references


def assert_equal(figures, expected):
    assert list(figures) == [*FIGURES, "per_class"]
    for name in FIGURES:
        assert figures[name] == pytest.approx(expected[name], abs=1e-9), name
    assert list(figures["per_class"]) == list(expected["per_class"])
    for name, values in expected["per_class"].items():
        assert figures["per_class"][name] == pytest.approx(values, abs=1e-9), name
