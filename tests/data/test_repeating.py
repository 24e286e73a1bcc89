"""Images with rare classes come as often as LVIS's rule says, in every layout the same."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset

from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.repeating import count_repeats, draw_factors, repeat_factors
from dino_detr.data.samples import TrainingSamples
from dino_detr.data.sampling import SizeGroupedSampler


def rows_of(classes, crowds=()):
    objects = [
        {"bbox": [[0.0, 0.0, 9.0, 9.0]] * len(some), "category": list(some), "iscrowd": [int(i in crowds)] * len(some)}
        for i, some in enumerate(classes)
    ]
    sides = [64 + 16 * (i % 3) for i in range(len(classes))]
    return Dataset.from_dict({"objects": objects, "height": sides, "width": [96] * len(classes)})


CLASSES = [[0]] * 60 + [[0, 1]] * 30 + [[2, 0, 2]] * 8 + [[3, 1]] * 2  # in 0.98 + 0.32 + 0.08 + 0.02 of the images


def test_factors_are_those_of_lvis():
    """Counted one by one, as its formula is written."""
    factors = repeat_factors(rows_of(CLASSES), 0.32)
    share = {c: sum(c in some for some in CLASSES) / len(CLASSES) for c in range(4)}
    expected = [max(max(1.0, math.sqrt(0.32 / share[c])) for c in some) for some in CLASSES]
    assert factors == pytest.approx(expected) and factors[-1] == pytest.approx(4)
    assert (repeat_factors(rows_of(CLASSES, crowds=(98, 99)), 0.32)[98:] == 1).all()
    assert (repeat_factors(rows_of([[], [0]]), 0.5) == [1, 1]).all()


def test_repeats_follow_the_factors():
    factors = np.random.default_rng(0).uniform(1, 5, 333)
    counts = np.array([count_repeats(factors, offset) for offset in np.linspace(0, 1, 501)[:-1]])
    assert set(counts.sum(1)) == {math.ceil(factors.sum())}
    assert np.abs(counts - factors).max() < 1 + 1e-2 and counts.min() >= 1
    assert counts.mean(0) == pytest.approx(factors, rel=0.01)


def test_orders_repeat_images_and_augment_each_anew():
    rows = rows_of(CLASSES)
    augmentation = build_augmentation("reference", [48, 64, 80], 160)
    samples = TrainingSamples(rows, augmentation, seed=3, factors=draw_factors(rows, 0.32))
    sampler = SizeGroupedSampler(samples, 8)
    orders = []
    for epoch in (0, 1, 0):
        samples.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler) > len(rows)
        assert len(set(orders[-1])) == len(sampler)
        times = Counter(index % len(rows) for index in orders[-1])
        assert set(times) == set(range(len(rows))) and times[99] in (3, 4, 5) and times[0] in (1, 2)
    assert orders[0] == orders[2] != orders[1]
    sizes = samples.draw_sizes([99 + 100 * k for k in range(4)])
    assert len(set(map(tuple, sizes.tolist()))) > 1
    assert torch.equal(samples.draw_sizes()[99], sizes[0])


def of_two_sources(classes):
    """The first sixty rows are of a source, the others of another."""
    rows = rows_of(classes).add_column("source", [int(index >= 60) for index in range(len(classes))])
    return rows.cast_column("source", ClassLabel(names=["a", "b"]))


@pytest.mark.parametrize("weights", [(1, 3), (0.5, 2.25), (1, 1)])
def test_images_of_a_source_come_as_often_as_its_weight_says(weights):
    rows = of_two_sources(CLASSES)
    augmentation = build_augmentation("reference", [48, 64], 160)
    samples = TrainingSamples(rows, augmentation, seed=3, factors=draw_factors(rows, source_weights=weights))
    sampler = SizeGroupedSampler(samples, 8)
    times = Counter()
    for epoch in range(20):
        samples.set_epoch(epoch)
        each = Counter(index % len(CLASSES) for index in sampler)
        assert each.total() == len(sampler) == math.ceil(60 * weights[0] + 40 * weights[1])
        for weight, images in zip(weights, (range(60), range(60, 100))):
            assert {each[image] for image in images} <= {math.floor(weight), math.ceil(weight)}
        times += each
    for weight, images in zip(weights, (range(60), range(60, 100))):
        assert sum(times[image] for image in images) == pytest.approx(20 * weight * len(images), rel=0.02)
        assert min(times[image] for image in images) > 10 * weight  # none is always left out


def test_a_class_is_as_rare_as_weights_of_sources_make_it():
    """As counted on rows in which each image stands as often as its weight says."""
    factors = draw_factors(of_two_sources(CLASSES), 0.4, [1, 4])
    times = [1] * 60 + [4] * 40
    written_out = rows_of([some for some, count in zip(CLASSES, times) for _ in range(count)])
    repeats = repeat_factors(written_out, 0.4)[np.cumsum([0, *times[:-1]])]
    assert factors == pytest.approx(repeats * times) and repeats.max() > 1
    assert draw_factors(rows_of(CLASSES)) is None
    assert np.array_equal(draw_factors(rows_of(CLASSES), 0.4), repeat_factors(rows_of(CLASSES), 0.4))
