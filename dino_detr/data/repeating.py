"""Repeat-factor sampling: images with rare classes come more often (LVIS, arXiv 1908.03195, appendix B.1)."""

import numpy as np
from datasets import Dataset

from .rows import arrow_objects


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
        pairs = np.unique(np.stack([image, category]), axis=1)
        share = np.bincount(pairs[1]) / len(rows)
        of_class = np.sqrt(threshold / np.maximum(share, 1e-12)).clip(min=1)
        np.maximum.at(factors, pairs[0], of_class[pairs[1]])
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
    """Return the row and the class index of each object that is no crowd."""
    objects = arrow_objects(rows)
    categories, crowds = objects.field("category"), objects.field("iscrowd")
    counts = np.diff(categories.offsets.to_numpy())
    single = crowds.values.to_numpy() == 0
    image = np.repeat(np.arange(len(rows)), counts)
    return image[single], categories.values.to_numpy()[single]
