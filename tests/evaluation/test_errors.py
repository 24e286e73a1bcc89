"""Which detections are right, against pycocotools; what is wrong with the others, against counting by hand."""

import numpy as np
import pytest
from helpers.coco_by_hand import make_data
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dino_detr.evaluation.coco.results import clean_results, images_of_results
from dino_detr.evaluation.errors import ERRORS, find_errors, match_image


def pycocotools_matches(annotations, results):
    """By image: (label, score, box, object or None) of the detections that count at IoU 0.5."""
    truth = COCO()
    truth.dataset = {"info": {}, **annotations}
    truth.createIndex()
    judge = COCOeval(truth, truth.loadRes(results), "bbox")
    judge.params.iouThrs = np.array([0.5])
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    labels = {category_id: label for label, category_id in enumerate(judge.params.catIds)}
    found = {image["id"]: [] for image in annotations["images"]}
    for entry in filter(None, judge.evalImgs):
        columns = zip(entry["dtIds"], entry["dtMatches"][0], entry["dtIgnore"][0])
        for id_, match, ignored in columns:
            row = results[id_ - 1]
            if not ignored:
                box = tuple(truth.anns[match]["bbox"]) if match else None
                found[entry["image_id"]].append(
                    (labels[row["category_id"]], row["score"], tuple(row["bbox"]), box or ())
                )
    return found


def xywh(box):
    x1, y1, x2, y2 = box.tolist()
    return (x1, y1, x2 - x1, y2 - y1)


@pytest.mark.parametrize(
    "options",
    [
        {"crowds": 0.5},
        {"score_digits": 1},
        {"objects": 100, "detections": 300, "num_images": 4, "categories": 2},  # more than COCO's 100 of a class
    ],
    ids=["crowds", "equal scores", "more than 100"],
)
def test_right_detections_are_those_of_pycocotools(options):
    annotations, results = make_data(seed=11, **options)
    expected = pycocotools_matches(annotations, results)
    detections, references = images_of_results(*clean_results(results, annotations))
    by_image = {entry["image_id"]: entry for entry in detections}
    num_right = num_counted = 0
    for reference in references:
        found = match_image(by_image.get(reference["image_id"]), reference)
        rows = zip(found.labels, found.scores, found.boxes, found.verdicts, found.partners)
        matches = [
            (label, score, xywh(box), xywh(found.true_boxes[partner]) if verdict == "right" else ())
            for label, score, box, verdict, partner in rows
            if verdict != "crowd"
        ]
        assert sorted(matches) == sorted(expected[reference["image_id"]])
        num_right += sum(match[3] != () for match in matches)
        num_counted += len(matches)
    assert num_right > 50
    bins = find_errors(detections, references, len(annotations["categories"])).calibration
    assert sum(row["right"] for row in bins) == num_right
    assert sum(row["detections"] for row in bins) == num_counted


CAT, DOG, EMU = range(3)


def image(image_id, objects=(), detections=()):
    """Objects as (class, box xyxy[, crowd]), detections as (score, class, box)."""
    reference = {
        "image_id": image_id,
        "labels": [row[0] for row in objects],
        "boxes": [row[1] for row in objects],
        "area": [1.0] * len(objects),
        "iscrowd": [len(row) > 2 for row in objects],
    }
    names = ("scores", "labels", "boxes")
    return {"image_id": image_id, **{n: [row[i] for row in detections] for i, n in enumerate(names)}}, reference


def at(x, width=10):
    return [float(x), 0.0, float(x + width), 10.0]


# Boxes of 10 x 10 in a row, 100 apart: one moved by 2 has IoU 8 / 12, by 5 5 / 15, by 9 1 / 19.
EVERY_FATE = image(
    1,
    [(CAT, at(0)), (CAT, at(100)), (DOG, at(200)), (DOG, at(300)), (EMU, at(400)), (DOG, at(500, 80), True)],
    [
        (0.95, CAT, at(2)),  # right
        (0.90, CAT, at(1)),  # a second box on it, though a better one
        (0.85, DOG, at(102)),  # a cat, called a dog
        (0.80, DOG, at(205)),  # IoU 1/3: badly placed
        (0.75, DOG, at(309)),  # IoU 1/19: false, and the dog is missed
        (0.70, DOG, at(520)),  # in the crowd
        (0.65, DOG, at(540)),  # also
        (0.60, EMU, at(700)),  # nothing there
    ],
)


def test_every_verdict():
    found = match_image(*EVERY_FATE)
    verdicts = ["right", "false", "wrong class", "badly placed", "false", "crowd", "crowd", "false"]
    assert found.verdicts.tolist() == verdicts
    assert found.partners.tolist() == [0, -1, 1, 2, -1, -1, -1, -1]
    assert found.true_verdicts.tolist() == ["right", "wrong class", "badly placed", "missed", "missed", "crowd"]
    assert dict(zip(ERRORS, found.count_errors())) == {"missed": 2, "wrong class": 1, "badly placed": 1, "false": 3}
    assert match_image(*EVERY_FATE, threshold=0.8).verdicts.tolist() == verdicts[:4]
    nothing = match_image(None, EVERY_FATE[1])
    assert nothing.true_verdicts.tolist() == ["missed"] * 5 + ["crowd"] and not len(nothing.verdicts)


def test_a_better_detection_has_the_first_choice_and_the_right_class_goes_first():
    objects = [(CAT, at(0)), (CAT, at(4)), (DOG, at(3))]
    detections = [(0.9, DOG, at(1)), (0.8, CAT, at(3)), (0.7, CAT, at(3))]
    found = match_image(*image(1, objects, detections))
    assert found.verdicts.tolist() == ["right", "right", "right"]
    assert found.partners.tolist() == [2, 1, 0]


def test_confusion_threshold_and_calibration_by_hand():
    """
    Detections by score, right or not: .95 r, .9 f, .85 f, .8 f, .75 f, .6 f of the first image, .9 r, .3 r of the
    second; 7 objects. F1: 2/8 at .95, 4/10 at .9 (of 3 detections), ... 4/14 at .6, 6/15 at .3: .9 is the first best.
    """
    second = image(2, [(CAT, at(0)), (CAT, at(100))], [(0.9, CAT, at(1)), (0.3, CAT, at(101))])
    detections, references = zip(EVERY_FATE, second, image(3))
    errors = find_errors(detections, references, 3)
    assert errors.threshold == 0.9
    assert (errors.precision, errors.recall) == (2 / 3, 2 / 7)
    assert errors.confusion.tolist() == [[2, 0, 0, 2], [0, 0, 0, 2], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert errors.counts.tolist() == [[4, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    shown = {row["from"]: (row["detections"], row["right"], row["share_right"]) for row in errors.calibration}
    assert shown[0.9] == (3, 2, pytest.approx(2 / 3))
    assert shown[0.8] == (2, 0, 0) and shown[0.3] == (1, 1, 1) and shown[0.5] == (0, 0, None)
    assert errors.calibration[9]["mean_score"] == pytest.approx((0.95 + 0.9 + 0.9) / 3)

    # with three more that are right, the best F1 is where all are counted: 12/21 at .3, 10/20 at .6
    third = image(3, [(EMU, at(0)), (EMU, at(100)), (EMU, at(200))], [(0.6, EMU, at(x)) for x in (0, 100, 200)])
    detections, references = zip(EVERY_FATE, second, third)
    errors = find_errors(detections, references, 3)
    assert errors.threshold == 0.3
    assert errors.confusion.tolist() == [[3, 1, 0, 0], [0, 0, 0, 2], [0, 0, 3, 1], [1, 2, 1, 0]]
    assert errors.confusion[:-1].sum() == 10  # objects, without the crowd


def test_equal_scores_are_in_or_out_together():
    """F1 is 2/3 at .95, and 4/8 with all of .9; only between the detections of .9 it would be 1."""
    right = [(0.95, CAT, at(0)), (0.9, CAT, at(100))]
    detections, references = zip(
        image(1, [(CAT, at(0)), (CAT, at(100))], right + [(0.9, CAT, at(x)) for x in (300, 400, 500, 600)])
    )
    assert find_errors(detections, references, 1).threshold == 0.95


def test_nothing_to_judge():
    detections, references = zip(image(1, [(CAT, at(0))]), image(2))
    errors = find_errors(detections, references, 2)
    assert errors.threshold is errors.precision is None and errors.recall == 0
    assert errors.confusion.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert sum(row["detections"] for row in errors.calibration) == 0

    detections, references = zip(image(1, [], [(0.4, CAT, at(0)), (0.3, DOG, at(0))]))
    errors = find_errors(detections, references, 2)
    assert errors.recall is None and errors.precision == 0
    assert (errors.threshold, errors.confusion[2].tolist()) == (0.4, [1, 0, 0])

    detections, references = zip(image(1, [(CAT, at(0))], [(95.0, CAT, at(0))]))  # in percent
    errors = find_errors(detections, references, 2)
    assert errors.threshold == 95 and errors.calibration is None

    assert find_errors([], [], 0).confusion.tolist() == [[0]]
