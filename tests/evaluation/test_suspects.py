"""Which labels a detector contradicts, and how much, on boxes made up by hand."""

import pytest

from dino_detr.evaluation.suspects import KINDS, find_suspects

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]  # apart from one another
CAT, DOG, ZEBRA, OTHER = 0, 1, 2, -1  # the detector does not know the third, the data not the fourth


def find(detected, annotated, crowd=(), threshold=0.5):
    """Of rows (box, label, score), best first, and (box, label): `{kind, score, box, detected box}`."""
    boxes, labels, scores = zip(*detected) if detected else ((), (), ())
    true_boxes, true_labels = zip(*annotated) if annotated else ((), ())
    crowd = [index in crowd for index in range(len(annotated))]
    suspects, confident = find_suspects(
        {"boxes": boxes, "labels": labels, "scores": scores},
        {"boxes": true_boxes, "labels": true_labels, "iscrowd": crowd},
        threshold,
        {CAT, DOG},
    )
    assert {suspect.kind for suspect in suspects} <= set(KINDS)
    return [
        (kind, pytest.approx(score), box, None if index is None else boxes[confident[index]])
        for kind, score, box, index in suspects
    ]


@pytest.mark.parametrize(
    ("detected", "annotated", "expected"),
    [
        ([], [], []),
        ([(A, CAT, 0.9), (B, DOG, 0.6)], [(B, DOG), (A, CAT)], []),
        ([(A, CAT, 0.9), (B, DOG, 0.6)], [(A, CAT)], [("missing box", 0.6, None, B)]),
        ([(A, CAT, 0.9), (B, DOG, 0.5)], [(A, CAT)], []),  # not above the threshold
        ([(A, CAT, 0.9)], [(A, CAT), (B, CAT)], [("spurious box", 1, 1, None)]),
        ([(A, CAT, 0.9), (B, DOG, 0.2)], [(A, CAT), (B, CAT)], [("spurious box", 1 - 0.2 / 0.5, 1, None)]),
        ([(A, DOG, 0.9)], [(A, CAT)], [("wrong class", 0.9, 0, A)]),
        ([(A, DOG, 0.7), (A, CAT, 0.2)], [(A, CAT)], [("wrong class", 0.7 - 0.2, 0, A)]),
        ([([0, 0, 10, 6], CAT, 0.8)], [(A, CAT)], [("badly placed box", 0.8 * (1 - 0.6), 0, [0, 0, 10, 6])]),
        ([([0, 0, 10, 4], CAT, 0.8)], [(A, CAT)], [("badly placed box", 0.8 * (1 - 0.4), 0, [0, 0, 10, 4])]),
        ([([0, 0, 10, 8], CAT, 0.8)], [(A, CAT)], []),
        # the second label of one box, and a second box on one object, are no missing boxes
        ([(A, CAT, 0.9), (A, DOG, 0.8)], [(A, CAT)], []),
        ([(A, CAT, 0.9), ([0, 0, 10, 9], DOG, 0.8)], [(A, CAT)], []),
        ([(A, CAT, 0.9), ([0, 0, 10, 9], DOG, 0.8)], [], [("missing box", 0.9, None, A)]),
        # one detection speaks for one box: a box that is there twice is found
        ([(A, CAT, 0.9)], [(A, CAT), (A, CAT)], [("spurious box", 1, 0, None)]),
        # classes that only one side has
        ([(A, CAT, 0.9)], [(A, ZEBRA), (B, ZEBRA)], []),
        ([(A, OTHER, 0.9), (B, OTHER, 0.9)], [(A, CAT)], []),
    ],
)
def test_suspects(detected, annotated, expected):
    assert find(detected, annotated) == expected


def test_crowds_are_not_suspected_nor_what_is_found_in_them():
    assert find([], [(A, CAT)], crowd=[0]) == []
    assert find([([2, 2, 5, 5], CAT, 0.9), ([6, 6, 9, 9], DOG, 0.8)], [(A, CAT)], crowd=[0]) == []
    assert find([(C, CAT, 0.9)], [(A, CAT)], crowd=[0]) == [("missing box", 0.9, None, C)]


def test_more_than_a_hundred_of_a_class_are_matched():
    """COCO's figures stop there; labels do not."""
    rows = [([20 * n, 0, 20 * n + 10, 10], CAT, 0.9 - n / 1000) for n in range(150)]
    assert find(rows, [(box, label) for box, label, _ in rows]) == []
