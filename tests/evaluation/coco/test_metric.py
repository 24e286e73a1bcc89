"""COCO's figures against pycocotools itself, run on JSON files."""

import json
import tracemalloc

import numpy as np
import pytest
from helpers.coco_by_hand import CATEGORY_IDS, as_batch, assert_equal, make_data, pycocotools_figures

from dino_detr.evaluation import CocoDetectionMetric, score_results, to_coco_results


def metric_figures(annotations, results, batch_size=7):
    names = [c["name"] for c in sorted(annotations["categories"], key=lambda c: c["id"])]
    metric = CocoDetectionMetric(class_names=names)
    for start in range(0, len(annotations["images"]), batch_size):
        images = annotations["images"][start : start + batch_size]
        predictions, references = as_batch(annotations, results, images)
        metric.add_batch(predictions=predictions, references=references)
    return metric.compute()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crowds": 0.6},
        {"objects": 150, "detections": 250, "num_images": 6, "categories": 2},  # above COCO's 100 of a class
        {"score_digits": 1},  # hundreds of equal scores
        {"detections": 0},
        {"objects": 1, "detections": 3},
        {"num_images": 1},  # no object at all: every figure is -1
    ],
    ids=["usual", "crowds", "more than 100", "equal scores", "no predictions", "few objects", "no objects"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_are_those_of_pycocotools(options, seed, tmp_path, capfd):
    annotations, results = make_data(seed, **options)
    expected = pycocotools_figures(annotations, results, tmp_path)
    capfd.readouterr()
    assert_equal(score_results(results, annotations), expected)
    assert_equal(metric_figures(annotations, results), expected)
    assert capfd.readouterr().out == ""


def test_detections_survive_the_way_through_a_result_file(tmp_path):
    annotations, results = make_data(seed=3)
    predictions, _ = as_batch(annotations, results, annotations["images"])
    rows = json.loads(json.dumps(to_coco_results(predictions, CATEGORY_IDS)))
    assert_equal(score_results(rows, annotations), pycocotools_figures(annotations, results, tmp_path))
    with pytest.raises(ValueError, match="label 3 is not one of the 3 classes"):
        to_coco_results(predictions, CATEGORY_IDS[:3])


def test_annotation_ids_area_and_iscrowd_do_not_matter_to_the_score(tmp_path):
    annotations, results = make_data(seed=4, crowds=0)
    for annotation in annotations["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    expected = pycocotools_figures(annotations, results, tmp_path)
    for annotation in annotations["annotations"]:
        annotation["id"] = 0
        del annotation["area"], annotation["iscrowd"]
    assert_equal(score_results(results, annotations), expected)


def test_metric_starts_afresh_after_compute():
    annotations, results = make_data(seed=5)
    predictions, references = as_batch(annotations, results, annotations["images"])
    metric = CocoDetectionMetric()
    first = metric.compute(predictions=predictions, references=references)
    assert len(metric) == 0
    for prediction, reference in zip(predictions, references):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == first
    assert list(first["per_class"]) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no image to score"):
        metric.compute()


def one_image(image_id=7, labels=(0,), scores=(0.5,)):
    boxes = [[0.0, 0.0, 10.0, 10.0]] * len(labels)
    prediction = {"image_id": image_id, "boxes": boxes, "scores": scores, "labels": labels}
    reference = {"image_id": image_id, "boxes": boxes, "labels": [0] * len(labels), "area": [100] * len(labels)}
    return [prediction], [{**reference, "iscrowd": [0] * len(labels)}]


def test_bad_batches_are_named_and_not_taken_in():
    metric = CocoDetectionMetric(category_ids=[5, 9])
    predictions, references = one_image()
    metric.add_batch(predictions=predictions, references=references)
    other_predictions, other_references = one_image(image_id=8)
    bad = {
        "image 7 was added": (predictions, references),
        "image 8 comes twice": (other_predictions * 2, other_references),
        "image 8 is not among the references": (other_predictions, one_image(9)[1]),
        "predictions of image 8: labels go from 2 to 2, with 2 classes": one_image(8, labels=[2]),
        "predictions of image 8: scores has NaN": one_image(8, scores=[float("nan")]),
        "predictions of image 8: .* differ in length": one_image(8, scores=[0.5, 0.5]),
        "references of image 8: the field 'area' is missing": (
            other_predictions,
            [{"image_id": 8, "boxes": [], "labels": []}],
        ),
    }
    for message, (bad_predictions, bad_references) in bad.items():
        with pytest.raises(ValueError, match=message):
            metric.add_batch(predictions=bad_predictions, references=bad_references)
    figures = metric.compute()
    assert figures["AP"] == pytest.approx(1)
    perfect = {"AP": 1, "AP50": 1, "AP75": 1, "APs": 1, "APm": -1, "APl": -1}
    assert figures["per_class"] == {5: pytest.approx(perfect), 9: dict.fromkeys(perfect, -1)}


def test_results_of_another_data_set_are_refused():
    annotations, results = make_data(seed=6)
    with pytest.raises(ValueError, match=r"results\[1\]: image_id 12345 is not in the annotations"):
        score_results([results[0], {**results[1], "image_id": 12345}], annotations)
    with pytest.raises(ValueError, match=r"results\[0\]: category_id 4 is not in the annotations"):
        score_results([{**results[0], "category_id": 4}], annotations)


def test_what_is_held_of_an_image_stays_below_10_kb():
    rng = np.random.default_rng(0)

    def image(image_id):
        boxes, labels = rng.uniform(0, 300, (300, 4)).cumsum(axis=1), rng.integers(0, 80, 300)
        objects = {"boxes": boxes[:7], "labels": labels[:7], "area": [50.0] * 7, "iscrowd": [0] * 7}
        found = {"boxes": boxes, "labels": labels, "scores": rng.random(300)}
        return {"image_id": image_id, **found}, {"image_id": image_id, **objects}

    metric = CocoDetectionMetric()
    num_images = 400
    tracemalloc.start()
    for first in range(0, num_images, 4):
        predictions, references = zip(*map(image, range(first, first + 4)))
        metric.add_batch(predictions=predictions, references=references)
    del predictions, references
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / num_images < 10_000
