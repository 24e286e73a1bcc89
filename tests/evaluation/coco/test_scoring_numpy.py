"""The scorer that comes by default against pycocotools, on data full of what is easily got wrong: the same bits."""

import numpy as np
import pytest

from dino_detr.evaluation import CocoDetectionMetric, score_results
from dino_detr.evaluation.coco.score import SCORERS, find_scorer, pack_detections, pack_objects, score

NUM_CLASSES = 4  # the last has no objects


def draw(seed: int, images=8, objects=6, detections=25, side=24, crowds=0.2, shades=5, classes=NUM_CLASSES):
    """
    Boxes of few whole pixels, so that many are equal, and many overlaps are exactly .5 or .75; of `shades` scores.

    Areas are the boxes' own, or on the very borders of small, medium and large; some boxes have no extent.
    """
    rng = np.random.default_rng(seed)

    def boxes(count):
        return np.concatenate([rng.integers(0, side // 2, (count, 2)), rng.integers(0, side, (count, 2))], axis=1)

    wanted_images = np.sort(rng.integers(0, images, images * objects))
    wanted = boxes(len(wanted_images)).astype(float)
    borders = np.array([0, 32**2, 32**2 + 1e-9, 96**2, 96**2 + 1e-9, 1e10, 1e11])
    areas = np.where(rng.random(len(wanted)) < 0.5, rng.choice(borders, len(wanted)), wanted[:, 2] * wanted[:, 3])
    labels = rng.integers(0, max(classes - 1, 1), len(wanted))
    packed_objects = pack_objects(wanted_images, labels, wanted, areas, rng.random(len(wanted)) < crowds)

    found_images = rng.integers(0, images, images * detections)
    found = boxes(len(found_images)).astype(float)
    if len(wanted):
        copied = rng.random(len(found)) < 0.5
        found[copied] = wanted[rng.integers(0, len(wanted), copied.sum())]
        found[copied] += rng.integers(-1, 2, (copied.sum(), 4))
    found[rng.random(len(found)) < 0.1] *= 12  # medium and large ones too
    scores = rng.integers(1, shades + 1, len(found)) / shades
    labels = rng.integers(0, classes, len(found))
    return [pack_detections(found_images, labels, scores, found)], [packed_objects]


CASES = {
    "usual": {},
    "crowds": {"crowds": 0.7},
    "above 100 of a class": {"images": 2, "objects": 130, "detections": 500, "classes": 2},
    "one image": {"images": 1},
    "one class": {"classes": 1},
    "no detections": {"detections": 0},
    "no objects": {"objects": 0},
    "nothing": {"objects": 0, "detections": 0},
    "equal scores": {"shades": 1},
    "few of either": {"objects": 1, "detections": 1, "images": 30},
    "larger boxes": {"side": 300},
}


@pytest.mark.parametrize("case", CASES)
def test_scorers_agree_to_the_last_bit(case):
    matched = 0
    for seed in range(6):
        detections, objects = draw(seed, **CASES[case])
        ours, theirs = (
            score(detections, objects, range(NUM_CLASSES), find_scorer(name)) for name in ("numpy", "pycocotools")
        )
        assert np.array_equal(ours.precision, theirs.precision)
        assert ours.figures == theirs.figures
        assert ours.per_class == theirs.per_class
        matched += ours.figures["AP"] > 0
    assert matched or not {"objects", "detections"}.isdisjoint(CASES[case])


def test_precision_is_that_of_each_threshold_recall_class_and_area():
    """By hand: two small objects of class 1; found are the first, with IoU 0.8, and before it a box beside it."""
    objects = [pack_objects([0, 0], [1, 1], np.array([[0, 0, 10, 10], [50, 50, 10, 10]]), [100, 100], [0, 0])]
    boxes = np.array([[20.0, 0, 10, 10], [0, 0, 10, 8]])
    detections = [pack_detections(np.zeros(2), np.ones(2), np.array([0.9, 0.5]), boxes)]
    result = score(detections, objects, range(2), find_scorer("numpy"))
    expected = np.full((10, 101, 2, 4), -1.0)
    expected[:, :, 1, :2] = 0
    expected[:7, :51, 1, :2] = 0.5  # IoU .50 to .80, recall 0 to 1/2
    assert result.precision == pytest.approx(expected, abs=1e-12)
    assert result.figures["AP"] == pytest.approx(0.5 * 51 / 101 * 0.7)
    assert result.per_class[1] == {
        "AP": pytest.approx(0.5 * 51 / 101 * 0.7),
        "AP50": pytest.approx(0.5 * 51 / 101),
        "AP75": pytest.approx(0.5 * 51 / 101),
        "APs": pytest.approx(0.5 * 51 / 101 * 0.7),
        "APm": -1,
        "APl": -1,
    }


def test_the_scorer_asked_for_is_taken(monkeypatch):
    def pycocotools(found, wanted):
        raise NotImplementedError("pycocotools was asked")

    monkeypatch.setitem(SCORERS, "pycocotools", pycocotools)
    image = {"image_id": 1, "boxes": [[0, 0, 9, 9]], "labels": [0], "area": [81], "iscrowd": [0], "scores": [1]}
    annotations = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]}
    CocoDetectionMetric().compute(predictions=[image], references=[image])
    score_results([], annotations)
    with pytest.raises(NotImplementedError, match="was asked"):
        CocoDetectionMetric(scorer="pycocotools").compute(predictions=[image], references=[image])
    with pytest.raises(NotImplementedError, match="was asked"):
        score_results([], annotations, scorer="pycocotools")
    with pytest.raises(ValueError, match="no scorer 'fast'; there are numpy, pycocotools"):
        CocoDetectionMetric(scorer="fast")
