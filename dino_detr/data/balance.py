"""How uneven the classes of a data set and the sizes of its boxes are, and which option answers it."""

import numpy as np
from datasets import Dataset

from .repeating import count_images
from .rows import class_names, objects_by_parts

_LISTED = 12  # classes, the rarest; beyond twice as many the others are summed up
_RARE = 0.1  # of the share of images that the median class is in
_SMALL, _LARGE = 32**2, 96**2  # square pixels, COCO's
_SIZES = ("small", "medium", "large")


def describe_balance(rows: Dataset) -> str:
    """
    Say in how many images each class is, of what sizes the boxes are, and what to do where these are uneven.

    Args:
        rows: of `load_detection_dataset`, checked.
    """
    names = class_names(rows)
    images = count_images(rows)
    if not images.sum():
        return "  no boxes"
    images = np.pad(images, (0, len(names) - len(images)))
    boxes, kinds = np.zeros(len(names), dtype=np.int64), np.zeros(len(_SIZES), dtype=np.int64)
    for objects in objects_by_parts(rows):
        single = objects.field("iscrowd").flatten().to_numpy() == 0
        boxes += np.bincount(objects.field("category").flatten().to_numpy()[single], minlength=len(names))
        sides = objects.field("bbox").flatten().flatten().to_numpy().reshape(-1, 4)[:, 2:]
        kinds += np.bincount(np.digitize(sides.prod(1), [_SMALL, _LARGE]), minlength=len(_SIZES))
    return "\n".join([*_describe_classes(names, images, boxes, len(rows)), *_describe_sizes(kinds)])


def _describe_classes(names: list[str], images: np.ndarray, boxes: np.ndarray, total: int) -> list[str]:
    order = np.argsort(images, kind="stable")
    listed = order if len(order) <= 2 * _LISTED else order[:_LISTED]
    lines = ["  classes, rarest first (images, boxes)"]
    lines += [f"    {images[index]:>7,}  {boxes[index]:>8,}  {names[index]}" for index in listed]
    if len(listed) < len(order):
        lines.append(f"    and {len(order) - len(listed)} more, up to {images[order[-1]]:,} images")
    median = float(np.median(images))
    absent = [names[index] for index in order if not images[index]]
    rare = [names[index] for index in order if 0 < images[index] < _RARE * median]
    if absent:
        lines.append(f"    without any box: {_some(absent)}; nothing of them is learned")
    if rare:
        lines.append(
            f"    rare: {_some(rare)}; --repeat_factor {median / total:.2g} shows their images more often, "
            "--class_weights makes mistakes in them count more"
        )
    return lines


def _describe_sizes(counts: np.ndarray) -> list[str]:
    shares = counts / counts.sum()
    parts = ", ".join(f"{share:.0%} {name}" for name, share in zip(_SIZES, shares))
    lines = [f"  sizes of boxes, as COCO counts them: {parts}"]
    if shares[0] > 0.5:
        lines.append("    most are small: larger --image_sizes in training, --tiles when predicting in large images")
    return lines


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
