"""Padding at the right and bottom of the images of a batch."""

import torch
from torch import Tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)


def mask_padding(sizes: Tensor, height: int, width: int) -> Tensor:
    """Turn heights and widths `[B, 2]` of padded images into a mask, int64 `[B, height, width]`, 1 = image."""
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None]).long()


def padded_sizes(labels: list[dict], height: int, width: int) -> Tensor | None:
    """
    Read the images' own sizes from their labels.

    Args:
        labels: as the processor makes them; `size` (height, width) is read where there is one.
        height, width: of the batch, in pixels.

    Returns:
        int64 `[B, 2]` on the CPU; or None where no image is smaller than the batch, or one is larger, which means that
        it was resized since.

    Raises:
        ValueError: for a `size` that is none.
    """
    sizes = [label.get("size") for label in labels]
    sizes = [[height, width] if size is None else torch.as_tensor(size).tolist() for size in sizes]
    for index, size in enumerate(sizes):
        if not isinstance(size, list) or len(size) != 2 or not all(side >= 1 for side in size):
            raise ValueError(f"labels[{index}]: size is {size}, but must be (height, width) of the image in pixels")
    heights, widths = zip(*sizes)
    if max(heights) > height or max(widths) > width or (min(heights) == height and min(widths) == width):
        return None
    return torch.tensor(sizes)


def mask_from_labels(labels: list[dict], pixel_values: Tensor) -> Tensor | None:
    """Make the mask that was not given from the `size` in `labels`; None where they tell of no padding."""
    height, width = pixel_values.shape[-2:]
    sizes = padded_sizes(labels, height, width)
    if sizes is None:
        return None
    logger.warning_once(
        f"Images are padded to {height}x{width}, as the `size` in `labels` says, but no `pixel_mask` was given. It is "
        "made from these sizes. Pass the processor's `pixel_mask`, without labels above all, where nothing tells "
        "padding from image."
    )
    return mask_padding(sizes.to(pixel_values.device), height, width)
