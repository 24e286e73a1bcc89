"""How often an epoch has each image: by its source, and by rare classes in it (LVIS, arXiv 1908.03195, B.1)."""

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset

from .joining import source_indices
from .rows import objects_by_parts

_MOST_CLASSES = 2**20


def draw_factors(
    rows: Dataset, threshold: float | None = None, source_weights: Sequence[float] | None = None
) -> np.ndarray | None:
    """
    Return how many times an epoch has each image, on average: float64 `[rows]`; None if each comes once.

    It is the weight of the image's source times its repeat factor, for which a class is as frequent as the weights make
    it.

    Args:
        threshold: of `repeat_factors`.
        source_weights: for each source of joined rows, how many times an epoch has each of its images.
    """
    if threshold is None and source_weights is None:
        return None
    weights = np.ones(len(rows))
    if source_weights is not None:
        weights = np.asarray(source_weights, dtype=np.float64)[source_indices(rows)]
    return weights if threshold is None else weights * repeat_factors(rows, threshold, weights)


def repeat_factors(rows: Dataset, threshold: float, weights: np.ndarray | None = None) -> np.ndarray:
    """
    Return how many times more often an epoch has each image, on average: float64 `[rows]`, at least 1.

    A class that is in a share `f` of the images has the factor `max(1, sqrt(threshold / f))`, an image that of the
    rarest class in it. Crowds do not count.

    Args:
        threshold: the share of images, 0..1, below which a class is rare.
        weights: how many times each image counts in the shares; None: once.
    """
    factors = np.ones(len(rows))
    share = count_images(rows, weights) / max(len(rows) if weights is None else weights.sum(), 1e-12)
    of_class = np.sqrt(threshold / np.maximum(share, 1e-12)).clip(min=1)
    for image, category in images_and_classes(rows):
        np.maximum.at(factors, image, of_class[category])
    return factors


def count_repeats(factors: np.ndarray, offset: float) -> np.ndarray:
    """
    Return how many times one epoch has each image: int64 `[rows]`, of always the same sum, the next whole number.

    Args:
        factors: of `draw_factors`.
        offset: 0..1, of the epoch. Over all offsets an image comes as often as its factor says, within rounding.
    """
    total = number_of_samples(factors)
    ends = np.floor(np.cumsum(factors * (total / factors.sum())) + offset + 1e-9)
    ends[-1] = total + np.floor(offset + 1e-9)
    return np.diff(ends, prepend=np.floor(offset + 1e-9)).astype(np.int64)


def number_of_samples(factors: np.ndarray) -> int:
    return int(np.ceil(factors.sum() - 1e-9))


def count_images(rows: Dataset, weights: np.ndarray | None = None) -> np.ndarray:
    """
    Return in how many images each class is, `[classes]`, as far as there are objects of them.

    Args:
        weights: how many times each image counts; None: once.
    """
    parts = [
        np.bincount(category, None if weights is None else weights[image])
        for image, category in images_and_classes(rows)
    ]
    counts = np.zeros(max(map(len, parts), default=0), dtype=np.int64 if weights is None else np.float64)
    for part in parts:
        counts[: len(part)] += part
    return counts


def images_and_classes(rows: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return which rows have which classes, each pair once, of some rows at a time. Crowds do not count."""
    first = 0
    for objects in objects_by_parts(rows):
        categories = objects.field("category")
        single = objects.field("iscrowd").flatten().to_numpy() == 0
        image = np.repeat(np.arange(first, first + len(objects)), np.diff(categories.offsets.to_numpy()))
        yield np.divmod(
            np.unique(image[single] * _MOST_CLASSES + categories.flatten().to_numpy()[single]), _MOST_CLASSES
        )
        first += len(objects)
