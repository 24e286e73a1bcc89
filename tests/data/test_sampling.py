"""Batches of one size: every sample once, in an order that is random and can be made again."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.samples import TrainingSamples
from dino_detr.data.sampling import SizeGroupedSampler

SIZES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]


def samples_of(count, augmentation="reference", sizes=SIZES, seed=1):
    """Photographs of 640 pixels' longer side, most of them wide."""
    rng = np.random.default_rng(0)
    table = np.full((count, 2), 640)
    table[np.arange(count), (rng.random(count) < 0.3).astype(int)] = rng.choice([427, 480, 480, 360], count)
    rows = Dataset.from_dict({"height": table[:, 0], "width": table[:, 1]})
    return TrainingSamples(rows, build_augmentation(augmentation, sizes, 1333), seed)


def padded_share(order, sizes, batch_size):
    """Of pixels, batch by batch, by counting."""
    image, batch = 0, 0
    for start in range(0, len(order) - batch_size + 1, batch_size):
        alike = [tuple(sizes[i].tolist()) for i in order[start : start + batch_size]]
        image += sum(height * width for height, width in alike)
        batch += batch_size * max(height for height, _ in alike) * max(width for _, width in alike)
    return 1 - image / batch


@pytest.mark.parametrize(("count", "batch_size"), [(3000, 16), (100, 8), (21, 4), (4, 4), (3, 4), (5, 1)])
def test_every_sample_comes_once_in_an_order_of_its_epoch(count, batch_size):
    samples = samples_of(count)
    orders = []
    for epoch in (0, 1, 0):
        samples.set_epoch(epoch)
        orders.append(list(SizeGroupedSampler(samples, batch_size)))
        assert sorted(orders[-1]) == list(range(count))
    assert orders[0] == orders[2]
    if count > 4:
        assert orders[0] != orders[1]
        assert list(SizeGroupedSampler(samples_of(count, seed=2), batch_size)) != orders[0]


def order_at_once(samples, batch_size):
    """The order as it was when all sizes were drawn before the first sample."""
    generator = torch.Generator().manual_seed(hash((samples.seed, samples.epoch)) % 2**63)
    order = torch.randperm(len(samples), generator=generator)
    sides = samples.draw_sizes().double().log()

    def halve(part):
        if len(part) // batch_size == 1:
            return [part]
        ascending = part[sides[part, int(sides[part].std(0).argmax())].argsort(stable=True)]
        half = len(part) // batch_size // 2 * batch_size
        return halve(ascending[:half]) + halve(ascending[half:])

    count = len(samples) // batch_size
    windows = order[: count * batch_size].split(min(128, math.ceil(count / 2)) * batch_size)
    batches = [batch for window in windows for batch in halve(window)]
    shuffled = [batches[batch] for batch in torch.randperm(count, generator=generator).tolist()]
    return torch.cat([*shuffled, order[count * batch_size :]]).tolist()


@pytest.mark.parametrize(("count", "batch_size"), [(3000, 16), (2000, 3), (300, 1), (21, 4)])
def test_the_order_is_what_it_was(count, batch_size):
    samples = samples_of(count)
    samples.set_epoch(3)
    assert list(SizeGroupedSampler(samples, batch_size)) == order_at_once(samples, batch_size)


def test_the_first_batch_waits_for_few_sizes(monkeypatch):
    """Of a million images, not a million."""
    samples, drawn = samples_of(20_000), []
    draw_size = samples.augmentation.draw_size
    monkeypatch.setattr(samples.augmentation, "draw_size", lambda *size: drawn.append(size) or draw_size(*size))
    order = iter(SizeGroupedSampler(samples, 4))
    next(order)
    assert len(drawn) == 128 * 4
    assert len(list(order)) + 1 == len(drawn) == 20_000


def test_little_is_padded():
    samples = samples_of(3000)
    order, sizes = list(SizeGroupedSampler(samples, 16)), samples.draw_sizes()
    assert padded_share(torch.randperm(3000).tolist(), sizes, 16) > 0.4
    assert padded_share(order, sizes, 16) < 0.08


def test_batches_are_mixed_anew_in_every_epoch():
    """Also where images are of fixed sizes, all different: two must not always meet."""
    rows = Dataset.from_dict({"height": [400 + i for i in range(320)], "width": [640] * 320})
    samples = TrainingSamples(rows, build_augmentation("none", [480], 1333), seed=1)
    companions = []
    for epoch in range(8):
        samples.set_epoch(epoch)
        order = list(SizeGroupedSampler(samples, 16))
        companions.append(next(set(order[i : i + 16]) for i in range(0, 320, 16) if 7 in order[i : i + 16]))
    assert len(set.intersection(*companions)) < 4


def test_sizes_come_in_no_order():
    """Batches one after the other differ in size as much as any two."""
    samples = samples_of(3008)
    sizes = samples.draw_sizes()[torch.tensor(list(SizeGroupedSampler(samples, 16)))].double()
    means = sizes.prod(1).reshape(-1, 16).mean(1)
    neighbours = (means[1:] - means[:-1]).abs().mean()
    assert neighbours > 0.8 * (means[:, None] - means).abs().mean()


def test_drawing_sizes_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    list(SizeGroupedSampler(samples_of(20), 4))
    assert torch.equal(torch.get_rng_state(), before)
