"""Repeat-factor sampling: images with rare classes come more often (LVIS, arXiv 1908.03195, appendix B.1)."""

import numpy as np
from datasets import Dataset

from .rows import objects_by_parts

_MOST_CLASSES = 2**20


def repeat_factors(rows: Dataset, threshold: float) -> np.ndarray:
    """
    Return how many times an epoch has each image, on average: float64 `[rows]`, at least 1.

    A class that is in a share `f` of the images has the factor `max(1, sqrt(threshold / f))`, an image that of the
    rarest class in it. Crowds do not count.

    Args:
        threshold: the share of images, 0..1, below which a class is rare.
    """
    image, category = images_and_classes(rows)
    factors = np.ones(len(rows))
    if len(category):
        share = np.bincount(category) / len(rows)
        of_class = np.sqrt(threshold / np.maximum(share, 1e-12)).clip(min=1)
        np.maximum.at(factors, image, of_class[category])
    return factors


def count_repeats(factors: np.ndarray, offset: float) -> np.ndarray:
    """
    Return how many times one epoch has each image: int64 `[rows]`, of always the same sum, the next whole number.

    Args:
        factors: of `repeat_factors`.
        offset: 0..1, of the epoch. Over all offsets an image comes as often as its factor says, within rounding.
    """
    total = number_of_samples(factors)
    ends = np.floor(np.cumsum(factors * (total / factors.sum())) + offset + 1e-9)
    ends[-1] = total + np.floor(offset + 1e-9)
    return np.diff(ends, prepend=np.floor(offset + 1e-9)).astype(np.int64)


def number_of_samples(factors: np.ndarray) -> int:
    return int(np.ceil(factors.sum() - 1e-9))


def images_and_classes(rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that have each class, of objects that are no crowd: int64 `[pairs]`, and the class indices."""
    pairs, first = [np.zeros(0, dtype=np.int64)], 0
    for objects in objects_by_parts(rows):
        categories = objects.field("category")
        single = objects.field("iscrowd").flatten().to_numpy() == 0
        image = np.repeat(np.arange(first, first + len(objects)), np.diff(categories.offsets.to_numpy()))
        pairs.append(np.unique(image[single] * _MOST_CLASSES + categories.flatten().to_numpy()[single]))
        first += len(objects)
    return np.divmod(np.concatenate(pairs), _MOST_CLASSES)
