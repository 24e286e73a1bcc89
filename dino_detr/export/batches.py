"""What graphs are called with: batches of real images, of several sizes."""

import torch
from datasets import Dataset
from PIL import Image
from torch.nn import functional as F

from ..image_processing_dino_detr import DinoDetrImageProcessor, upright_rgb
from .options import ExportOptions
from .runtime import SMALLEST
from .verification import Batch


def some_images(rows: Dataset, count: int) -> list[Image.Image]:
    """Return `count` images from all over a data set, or all that it has, upright and as RGB."""
    count = min(count, len(rows))
    return [upright_rgb(rows[number * len(rows) // count]["image"]) for number in range(count)]


def make_batches(
    images: list[Image.Image],
    processor: DinoDetrImageProcessor,
    options: ExportOptions,
    counts: tuple[int, ...] = (3, 1, 2),
    scales: tuple[float, ...] = (1.0, 0.75, 0.5),
) -> list[Batch]:
    """
    Make the inputs of a graph.

    Args:
        processor: of the export, which leaves out what the graph does itself.
        counts: images of the batches, in turn.
        scales: by which the shortest edge of the batches' images is scaled, in turn, if the graph takes any size.
    """
    batches, start = [], 0
    while start < len(images):
        count, scale = counts[len(batches) % len(counts)], scales[len(batches) % len(scales)]
        batches.append(_make_batch(images[start : start + count], processor, options, scale))
        start += count
    return batches


def _make_batch(
    images: list[Image.Image], processor: DinoDetrImageProcessor, options: ExportOptions, scale: float
) -> Batch:
    size = dict(processor.size)
    if options.image_size is None and "shortest_edge" in size:
        size["shortest_edge"] = max(SMALLEST, int(size["shortest_edge"] * scale))
    inputs = processor(images, size=size, return_tensors="pt")
    pixels, mask = inputs["pixel_values"], inputs["pixel_mask"]
    if options.image_size is not None:
        pad = (0, options.image_size[1] - pixels.shape[-1], 0, options.image_size[0] - pixels.shape[-2])
        pixels, mask = F.pad(pixels, pad), F.pad(mask, pad)
    batch = {"pixel_values": pixels.to(torch.uint8) if options.with_preprocessing else pixels, "pixel_mask": mask}
    if options.with_postprocessing:
        batch["target_sizes"] = torch.tensor([image.size[::-1] for image in images])
    return batch
