"""What is said of an AP of 0: of detections made by hand from the truth, and in runs."""

import contextlib
import io
import sys

import numpy as np
import pytest
from helpers.launching import lines, run
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dino_detr.evaluation import CocoDetectionMetric
from dino_detr.evaluation.diagnosis import diagnose

NAMES = ["ant", "bee", "cat", "dog"]


def make_truth(num_images=6, num_objects=5) -> list[dict]:
    rng = np.random.default_rng(0)
    truth = []
    for image_id in range(1, num_images + 1):
        corners = rng.uniform(0, 300, (num_objects, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(40, 100, (num_objects, 2))], axis=1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        labels = rng.choice(4, num_objects, p=[0.5, 0.3, 0.1, 0.1])
        truth.append(
            {"image_id": image_id, "boxes": boxes, "labels": labels, "area": area, "iscrowd": [0] * len(boxes)}
        )
    return truth


def detections_of(truth, boxes=lambda boxes: boxes, labels=lambda labels: labels, scores=(0.9, 0.5)) -> list[dict]:
    """As the truth has it, but for what is changed; best first."""
    return [
        {
            "image_id": entry["image_id"],
            "boxes": boxes(entry["boxes"]),
            "labels": labels(entry["labels"]),
            "scores": np.linspace(*scores, len(entry["labels"])) - 0.001 * entry["image_id"] * (scores[0] > scores[1]),
        }
        for entry in truth
    ]


def seen(detections, truth, ids=range(1, 31), **known):
    diagnosis = diagnose(detections, truth, list(ids), NAMES, **known)
    assert diagnosis.finding in str(diagnosis)
    return diagnosis


def half_about_centre(boxes):
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([centre - size / 4, centre + size / 4], axis=1)


def test_labels_permuted():
    """Also when every box comes again under another label, as a detector's top k have it, and one is background."""
    truth = make_truth()
    found = detections_of(truth, labels=lambda labels: (labels + 1) % 4)
    for entry in found:
        entry["boxes"] = np.concatenate([entry["boxes"], entry["boxes"], [[500, 500, 510, 510]]])
        entry["labels"] = np.concatenate([entry["labels"], (entry["labels"] + 1) % 4, [3]])
        entry["scores"] = np.concatenate([entry["scores"], entry["scores"] - 0.4, [0.01]])
    metric = CocoDetectionMetric(class_names=NAMES)
    assert metric.compute(predictions=found, references=truth)["AP50"] < 0.01
    diagnosis = seen(found, truth)
    assert diagnosis.agnostic_ap == pytest.approx(1.0) and diagnosis.best_iou == pytest.approx(1.0)
    assert "labels are not" in diagnosis.finding and "category id" in diagnosis.finding
    counts = np.bincount(np.concatenate([entry["labels"] for entry in truth]), minlength=4)
    assert diagnosis.true_labels == {name: count for name, count in zip(NAMES, counts) if count}
    assert diagnosis.predicted_labels == {name: count for name, count in zip(NAMES, np.roll(counts, 1)) if count}
    most = max(diagnosis.predicted_labels, key=diagnosis.predicted_labels.get)
    assert f"predicted labels     {most}: " in str(diagnosis)


@pytest.mark.parametrize(
    "change, ratio, words",
    [
        (lambda boxes: boxes / 2, 0.5, "wrong size, 0.50 times"),  # as of an image of half the size
        (half_about_centre, 0.5, "wrong size, 0.50 times"),
        (lambda boxes: boxes[:, [1, 0, 3, 2]] + 400, 1.0, "in wrong places"),
    ],
)
def test_boxes_of_wrong_size_or_place(change, ratio, words):
    truth = make_truth()
    diagnosis = seen(detections_of(truth, boxes=change), truth)
    assert diagnosis.size_ratio == pytest.approx(ratio) and words in diagnosis.finding
    assert "labels" not in diagnosis.finding
    if change is half_about_centre:
        assert diagnosis.best_iou == pytest.approx(0.25)


def test_scores_that_say_nothing():
    truth = make_truth()
    elsewhere = {"boxes": lambda boxes: boxes + 150}
    low = seen(detections_of(truth, **elsewhere, scores=(0.01, 0.01)), truth)
    assert low.scores == pytest.approx([0.01] * 5)
    assert "below 0.2: it has not learned to tell objects from background yet" in low.finding
    assert "train longer" in low.finding
    alike = seen(detections_of(truth, **elsewhere, scores=(0.4, 0.4)), truth)
    assert "alike, about 0.40" in alike.finding
    stuck = seen(detections_of(truth, **elsewhere, scores=(0.01, 0.01)), truth, loss=(20.0, 19.9))
    assert "loss has not fallen" in stuck.finding and "19.9" in str(stuck)


def test_repeated_ids():
    """pycocotools indeed loses annotations to them."""
    truth = make_truth(num_images=1)
    ids = [7, 8, 8, 9, 7]
    diagnosis = seen(detections_of(truth, labels=lambda labels: 3 - labels), truth, ids)
    assert diagnosis.repeated_ids == [7, 8]
    assert "repeated ids         7, 8" in str(diagnosis) and "pycocotools" in diagnosis.finding
    coco = COCO()
    coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": []}
    for number, box in zip(ids, truth[0]["boxes"].tolist()):
        coco.dataset["annotations"].append({"id": number, "image_id": 1, "category_id": 1, "bbox": box})
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    kept = [tuple(annotation["bbox"]) for annotation in coco.loadAnns(coco.getAnnIds())]
    boxes = [tuple(box) for box in truth[0]["boxes"].tolist()]
    assert kept == [boxes[4], boxes[2], boxes[2], boxes[3], boxes[4]]


def test_nothing_found_and_nothing_to_find():
    truth = make_truth()
    diagnosis = seen([], truth)
    assert (diagnosis.detections, diagnosis.scores, diagnosis.agnostic_ap50) == (0, None, 0)
    assert "no detections" in diagnosis.finding
    found = detections_of(truth)
    for entry in truth:
        entry["iscrowd"] = [1] * 5
    diagnosis = seen(found, truth)
    assert diagnosis.agnostic_ap50 == -1 and "nothing to find" in diagnosis.finding
    assert "nothing to find" in seen([], [], []).finding


def test_classes_that_training_never_saw():
    truth = make_truth()
    found = detections_of(truth, labels=lambda labels: labels * 0 + 2)
    diagnosis = seen(found, truth, trained_labels={2, 3})
    assert diagnosis.unseen == ["ant", "bee"] and "no object of (ant, bee)" in diagnosis.finding
    one = seen(found, truth, trained_labels={0, 1, 2})
    assert "labels are not" in one.finding and "Training has no object of dog." in one.finding


def test_class_agnostic_figures_and_overlaps_are_pycocotools():
    """`useCats = 0`, on boxes that are somewhat off, with a crowd."""
    truth, rng = make_truth(num_images=30), np.random.default_rng(1)
    found = detections_of(truth, lambda boxes: boxes + rng.normal(0, 9, boxes.shape), lambda labels: 3 - labels)
    truth[3]["iscrowd"] = [0, 1, 0, 0, 0]
    diagnosis = seen(found, truth)

    coco, results = COCO(), []
    coco.dataset = {"images": [{"id": entry["image_id"]} for entry in truth], "annotations": []}
    coco.dataset["categories"] = [{"id": label} for label in range(4)]
    for entry, detection in zip(truth, found):
        for box, label, area, crowd in zip(entry["boxes"], entry["labels"], entry["area"], entry["iscrowd"]):
            common = {"image_id": entry["image_id"], "category_id": label, "bbox": [*box[:2], *(box[2:] - box[:2])]}
            number = len(coco.dataset["annotations"]) + 1
            coco.dataset["annotations"].append({**common, "id": number, "area": area, "iscrowd": crowd})
        for box, label, score in zip(detection["boxes"], detection["labels"], detection["scores"]):
            bbox = [*box[:2], *(box[2:] - box[:2])]
            results.append({"image_id": entry["image_id"], "category_id": label, "bbox": bbox, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0.1 < evaluation.stats[0] < 0.9
    assert [diagnosis.agnostic_ap, diagnosis.agnostic_ap50] == pytest.approx(evaluation.stats[:2].tolist(), abs=1e-4)
    ious = []
    for (image_id, _), overlap in evaluation.ious.items():
        entry = truth[image_id - 1]
        crowds = np.array(entry["iscrowd"])[np.argsort(entry["labels"], kind="stable")]  # as pycocotools has them
        ious += overlap.max(0)[crowds == 0].tolist()
    assert diagnosis.best_iou == pytest.approx(np.median(ious), abs=1e-4)


def test_large_data_sets_are_sampled_evenly():
    truth = make_truth(num_images=1001, num_objects=1)
    diagnosis = seen(detections_of(truth, labels=lambda labels: 3 - labels)[::-1], truth)
    assert diagnosis.images == diagnosis.objects == diagnosis.detections == 334
    assert diagnosis.agnostic_ap == pytest.approx(1.0)


def test_a_run_explains_itself(recipe, tmp_path):
    """The loss falls, AP stays 0: the log and `diagnosis.txt` say what is seen; so does `dino-detr evaluate`."""
    steps = ["--max_steps", "12", "--eval_steps", "12", "--save_steps", "12", "--learning_rate", "3e-3"]
    output = run(sys.executable, "train.py", recipe, *steps, "--output_dir", tmp_path / "run")
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]  # or this test shows nothing
    assert lines(tmp_path / "run" / "evaluation.jsonl")[0]["AP50"] < 0.01
    text = (tmp_path / "run" / "diagnosis.txt").read_text()
    assert text.startswith("AP50 is 0.00") and "at step 12. What the evaluation saw:" in text
    for name in ("all labels made one", "scores", "true labels", "predicted labels", "best overlap", "repeated ids"):
        assert f"\n  {name} " in text
    assert "digit 3: " in text
    assert output.count(text) == 2  # of the evaluation in training and of that at the end
    assert not (tmp_path / "run" / ".diagnosis.txt.partial").exists()

    output = run(sys.executable, "-m", "dino_detr.cli", "evaluate", tmp_path / "run", "--dataset", recipe.parent)
    assert "AP50 is about 0. What the evaluation saw:" in output
    seen_there = [line for line in text.splitlines() if line.startswith("  ") and "training loss" not in line]
    assert len(seen_there) == 8 and "\n".join(seen_there) in output
