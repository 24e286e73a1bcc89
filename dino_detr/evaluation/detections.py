"""A model's detections on the rows of a data set."""

import signal
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.image_utils import ChannelDimension
from transformers.utils import logging

from ..data.decoding import decode_rgb, describe_fault
from ..data.image_files import image_name
from ..image_processing_dino_detr import DinoDetrImageProcessor, select_detections, suppress_overlaps

logger = logging.get_logger(__name__)

TOP_K = 300  # detections of an image, as the reference takes


@torch.no_grad()
def detect(
    model: PreTrainedModel,
    processor: DinoDetrImageProcessor,
    rows: Dataset,
    indices: Iterable[int],
    batch_size: int = 8,
    num_workers: int = 0,
    top_k: int = TOP_K,
    one_label_per_query: bool = False,
    nms_threshold: float | None = None,
) -> Generator[dict]:
    """
    Find the best detections in each of the rows named by `indices`, in no particular order.

    Batches hold images of one size, so nothing is padded and an image's result does not depend on its neighbours. Only
    the `top_k` detections leave the device. An image that cannot be read is named in a warning and has none.
    `one_label_per_query` and `nms_threshold` are those of `DinoDetrImageProcessor.post_process_object_detection`.

    Yields:
        `{"image_id", "scores" [n], "labels" [n], "boxes" [n, 4]}`, numpy float32 (labels int16), best first; boxes are
        xyxy pixels of the image, clipped to it; without an `nms_threshold`, n is the same for all images.
    """
    indices = list(indices)
    sizes = rows.select_columns(["width", "height"])[:] if indices else {}
    by_size = defaultdict(list)
    for index in indices:
        by_size[sizes["width"][index], sizes["height"][index]].append(index)
    batches = [
        same_size[start : start + batch_size]
        for same_size in by_size.values()
        for start in range(0, len(same_size), batch_size)
    ]
    files: Any = rows.select_columns(["image", "image_id"]).cast_column("image", Image(decode=False))
    loader = DataLoader(
        files,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=partial(_process, processor=processor),
        worker_init_fn=_leave_interrupts_to_parent,
        generator=torch.Generator(),  # the global one is training's
    )
    for image_ids, image_sizes, groups, unreadable in loader:
        for fault in unreadable:
            logger.warning(f"{fault}: left out")
        for positions, pixel_values in groups:
            target_sizes = [image_sizes[position] for position in positions]
            best = detect_in_batch(model, pixel_values, target_sizes, top_k, one_label_per_query, nms_threshold)
            for position, (scores, labels, boxes) in zip(positions, best):
                yield {
                    "image_id": image_ids[position],
                    "scores": scores.numpy(),
                    "labels": labels.numpy().astype(np.int16),
                    "boxes": boxes.numpy(),
                }


def detect_in_batch(
    model: PreTrainedModel,
    pixel_values: Tensor,
    target_sizes: list[tuple[int, int]],
    top_k: int,
    one_label_per_query: bool,
    nms_threshold: float | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """
    Run the model on images of one size.

    Args:
        pixel_values: `[B, 3, H, W]`, of any device.
        target_sizes: height and width of each image before it was resized, in pixels.
        top_k, one_label_per_query, nms_threshold: see `DinoDetrImageProcessor.post_process_object_detection`.

    Yields:
        For each image scores `[n]`, labels `[n]` and xyxy pixel boxes `[n, 4]` on the CPU, best first.
    """
    outputs = model(pixel_values.to(model.device))
    best = select_detections(outputs.logits, outputs.pred_boxes, target_sizes, top_k, one_label_per_query)
    for found in zip(*(tensor.cpu() for tensor in best)):
        scores, labels, boxes = found
        yield suppress_overlaps(scores, labels, boxes, nms_threshold)


def _leave_interrupts_to_parent(_worker_id: int) -> None:
    """Ctrl-C reaches data workers too; the parent ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _process(samples: list[dict], processor: DinoDetrImageProcessor) -> tuple[list, list, list, list]:
    """Put images of one processed size together: the annotation file's sizes, by which they came, may be wrong."""
    images, image_ids, unreadable = [], [], []
    for sample in samples:
        try:
            pixels = decode_rgb(sample["image"])
        except OSError as fault:
            unreadable.append(f"{image_name(**sample)}: {describe_fault(fault)}")
            continue
        images.append(processor.process_image(pixels, input_data_format=ChannelDimension.FIRST))
        image_ids.append(sample["image_id"])
    by_size = defaultdict(list)
    for position, image in enumerate(images):
        by_size[image.shape].append(position)
    groups = [
        (positions, processor([images[position] for position in positions], return_tensors="pt")["pixel_values"])
        for positions in by_size.values()
    ]
    return image_ids, [tuple(image.shape[-2:]) for image in images], groups, unreadable


def references(rows: Dataset, detections: list[dict]) -> list[dict]:
    """Return the truth of the rows that were detected in, as `CocoDetectionMetric` takes it."""
    seen = {detection["image_id"] for detection in detections}
    result = []
    row: Any
    for row in rows.select_columns(["image_id", "objects"]):
        if row["image_id"] not in seen:  # the image could not be read
            continue
        boxes = np.asarray(row["objects"]["bbox"], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        result.append(
            {
                "image_id": row["image_id"],
                "boxes": boxes,
                "labels": row["objects"]["category"],
                "area": row["objects"]["area"],
                "iscrowd": row["objects"]["iscrowd"],
            }
        )
    return result
