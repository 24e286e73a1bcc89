"""The built-in data set `digits`: scenes of handwritten digits, made on the spot.

The digits are scikit-learn's (1,797 of 8x8 pixels, from UCI's "Optical Recognition of Handwritten Digits"), drawn
smooth and in colour, 2 to 8 a scene, over stripes, gradients and soft noise. Every fourth scene has digits whose
boxes overlap. It is small enough to learn from in minutes, and hard enough to show a detector that does not work.
"""

import functools
import io
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from ..rows import detection_features

NUM_SCENES = {"train": 4000, "val": 250}
DIGIT_HEIGHTS = (16, 72)  # pixels, of the box around the ink

_BACKGROUND_LUMA, _INK_LUMA = (20, 95), (170, 245)  # coloured chalk on a coloured board
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def load_digits_scenes(split: str) -> Dataset:
    """Make the scenes of `train` or `val`, the same ones every time.

    A scene's longer side is 208..288 px, its shorter side 160..224 px; one in five is upright. Boxes are tight
    around the ink, `area` is the box's. Image ids count from 1, category ids are the digits.

    Raises:
        ValueError: for any other split.
    """
    if split not in NUM_SCENES:
        raise ValueError(f"The data set 'digits' has no split {split!r}; it has {', '.join(NUM_SCENES)}.")
    columns = {"image": [], "image_id": [], "width": [], "height": [], "objects": []}
    num_objects = 0
    for index in range(NUM_SCENES[split]):
        pixels, boxes, digits = render_scene(split, index)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, format="JPEG", quality=95)
        columns["image"].append({"bytes": encoded.getvalue(), "path": None})
        columns["image_id"].append(index + 1)
        columns["width"].append(pixels.shape[1])
        columns["height"].append(pixels.shape[0])
        columns["objects"].append(
            {
                "id": list(range(num_objects + 1, num_objects + 1 + len(digits))),
                "bbox": boxes,
                "category": digits,
                "area": [w * h for _, _, w, h in boxes],
                "iscrowd": [0] * len(digits),
            }
        )
        num_objects += len(digits)
    features = detection_features(names=[str(digit) for digit in range(10)], ids=list(range(10)))
    return Dataset.from_dict(columns, features=features)


def render_scene(split: str, index: int) -> tuple[np.ndarray, list[list[int]], list[int]]:
    """Draw one scene: pixels `[h, w, 3]` uint8 RGB, boxes (x, y, w, h in pixels) and the digits in them."""
    rng = np.random.default_rng([list(NUM_SCENES).index(split), index])
    height, width = int(rng.integers(160, 225)), int(rng.integers(208, 289))
    if rng.random() < 0.2:
        height, width = width, height

    first, second = _colour(rng, _BACKGROUND_LUMA), _colour(rng, _BACKGROUND_LUMA)
    scene = first + _texture(rng, height, width)[..., None] * (second - first)

    boxes, digits = [], []
    samples = handwritten_samples(split)
    num_digits = rng.integers(2, 9)
    smallest, largest = DIGIT_HEIGHTS
    # the larger, the more frequent; the largest first, while there is room
    digit_heights = smallest + (largest - smallest) * np.cbrt(rng.random(num_digits))
    for digit_height in sorted(digit_heights.round().astype(int).tolist(), reverse=True):
        sample = int(rng.choice(samples))
        ink = _ink(sample, digit_height)  # [h, w], 0..1
        h, w = ink.shape
        # Every other digit is put onto an earlier one, so that pairs overlap rather than one heap.
        overlapping = index % 4 == 3 and len(boxes) % 2 == 1
        place = _free_place(rng, boxes, (w, h), (width, height), overlapping)
        if place is None:
            continue
        x, y = place
        region = scene[y : y + h, x : x + w]
        region += ink[..., None] * (_colour(rng, _INK_LUMA) - region)
        boxes.append([x, y, w, h])
        digits.append(int(load_handwriting().target[sample]))
    return scene.clip(0, 255).round().astype(np.uint8), boxes, digits


@functools.cache
def load_handwriting() -> Any:
    """scikit-learn's digits: `images` [1797, 8, 8] in 0..16, `target` [1797]."""
    from sklearn.datasets import load_digits  # takes a second, and nothing else needs it

    return load_digits()


@functools.cache
def handwritten_samples(split: str) -> np.ndarray:
    """Indices of the handwritten digits of a split: every fifth is for `val`, the others for `train`."""
    indices = np.arange(len(load_handwriting().target))
    return indices[(indices % 5 == 0) == (split == "val")]


@functools.cache
def _smooth_digit(sample: int) -> Image.Image:
    """A handwritten digit as a large smooth shape, cropped to its ink; 0..255."""
    margin = np.pad(load_handwriting().images[sample].astype(np.float32), 1)
    large = np.asarray(Image.fromarray(margin).resize((160, 160), Image.Resampling.BICUBIC))
    # Strokes of 8x8 scans are grey at their edges; a ramp below half of full ink makes them crisp, thin enough for
    # the holes of 8 and 9 to stay open, thick enough for faint strokes not to break.
    shape = Image.fromarray((((large - 4) / 6).clip(0, 1) * 255).astype(np.uint8))
    return shape.crop(shape.point([255 * (value >= 128) for value in range(256)]).getbbox())


def _ink(sample: int, height: int) -> np.ndarray:
    """A handwritten digit `height` pixels high: how much ink is on each pixel `[h, w]`, 0..1."""
    shape = _smooth_digit(sample)
    width = max(1, round(shape.width * height / shape.height))
    return np.asarray(shape.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255


def _free_place(rng, boxes, size, scene_size, overlapping) -> tuple[int, int] | None:
    """Return (x, y) where a box of `size` (w, h) fits, clear of the others, or onto the last one if `overlapping`.

    Overlapping boxes share 5 to 35 % of the smaller one, so that every digit stays legible. None if 100 random
    places are all unfit.
    """
    w, h = size
    low, high = np.zeros(2, dtype=int), np.array(scene_size) - size
    if overlapping:
        low = np.maximum(low, np.array(boxes[-1][:2]) - size)
        high = np.minimum(high, np.array(boxes[-1][:2]) + boxes[-1][2:])
    x, y = rng.integers(low, high + 1, size=(100, 2)).T
    bx, by, bw, bh = np.array(boxes).reshape(-1, 4).T[..., None]  # each [boxes, 1]
    if overlapping:
        shared_width = (np.minimum(x + w, bx + bw) - np.maximum(x, bx)).clip(0)
        shared_height = (np.minimum(y + h, by + bh) - np.maximum(y, by)).clip(0)
        share = (shared_width * shared_height / np.minimum(w * h, bw * bh)).max(axis=0)
        fits = (share >= 0.05) & (share <= 0.35)
    else:
        gap = 2
        apart = (x >= bx + bw + gap) | (x + w + gap <= bx) | (y >= by + bh + gap) | (y + h + gap <= by)
        fits = apart.all(axis=0)
    return (int(x[fits][0]), int(y[fits][0])) if fits.any() else None


def _texture(rng, height: int, width: int) -> np.ndarray:
    """A random pattern `[height, width]` in 0..1: a gradient, stripes or soft noise."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[:height, :width]
    across = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:
        return (across - across.min()) / (across.max() - across.min())
    if kind == 1:
        return 0.5 + 0.5 * np.sin(across * np.float32(2 * np.pi / rng.uniform(10, 60)))
    cell = rng.uniform(8, 40)
    coarse = rng.random((round(height / cell) + 1, round(width / cell) + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)


def _colour(rng, luma: tuple[int, int]) -> np.ndarray:
    """A random RGB colour `[3]`, 0..255, of a brightness in the given range."""
    colour = rng.uniform(0, 255, size=3).astype(np.float32)
    # Shifting a colour out of 0..255 and clipping it would change its brightness: fade it towards grey instead.
    target = np.float32(rng.uniform(*luma))
    offset = colour - colour @ _LUMA
    room = np.where(offset > 0, 255 - target, target) / np.abs(offset).clip(1e-3)
    return target + offset * min(1, room.min())
