"""Rows become augmented training samples, and samples become batches."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from datasets import Dataset, Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..image_processing_dino_detr import encode_annotation, stack_padded
from .augmentation import Augmentation
from .decoding import decode_rgb, describe_fault
from .image_files import image_name
from .rows import SMALLEST_SIDE, arrow_table, objects_by_parts

_MOST_SKIPPED = 100  # images for one sample
_DRAWN_TOGETHER = 10_000  # sizes


class TrainingSamples(torch.utils.data.Dataset):
    """
    Augmented samples of a data set, each determined by (seed, epoch, index) alone, whichever worker makes it. An index
    beyond the rows is a row again, augmented in another way.

    A sample is `{"image": uint8 [3, h, w] RGB, "annotation": {"image_id", "annotations": [{"bbox" xywh pixels,
    "category_id" class index, "area" square pixels, "iscrowd" 0}]}}`, as the processor takes it, and "noise_seed", an
    int from which its denoising is drawn. Crowds are left out, boxes clipped to the image, empty ones dropped.

    An image file that can no longer be read is skipped: in its place comes the sample after it, of the same epoch.
    "unreadable" lists such files, each with the reason.

    Args:
        rows: of `load_detection_dataset`.
        augmentation: of `build_augmentation`.
        seed: of the run.
        factors: how many times an epoch has each image, on average (see `draw_factors`); None: once.
    """

    def __init__(self, rows: Dataset, augmentation: Augmentation, seed: int, factors: np.ndarray | None = None):
        self.rows, self.augmentation, self.seed, self.factors = rows, augmentation, seed, factors
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch

    @property
    def epoch(self) -> int:
        """The epoch that samples are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader before each epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _files(self) -> Dataset:
        """The rows with image files as they are."""
        return self.rows.cast_column("image", Image(decode=False))

    def __getitem__(self, index: int) -> dict:
        unreadable, instead = [], index
        while True:
            row = self._files[instead % len(self.rows)]
            try:
                pixels = decode_rgb(row["image"])
                break
            except OSError as fault:
                if len(unreadable) == min(_MOST_SKIPPED, len(self.rows) - 1):  # it is all of them
                    raise
                unreadable.append(f"{image_name(row['image'], row['image_id'])}: {describe_fault(fault)}")
            first = index - index % len(self.rows)  # of this repetition
            instead = first + (instead + 1) % len(self.rows)
        return {**self._make(instead, row, tv_tensors.Image(pixels)), "unreadable": unreadable}

    def _make(self, index: int, row: dict, image: tv_tensors.Image) -> dict:
        objects = row["objects"]
        height, width = image.shape[-2:]
        numbers = torch.tensor(objects["bbox"], dtype=torch.float32).reshape(-1, 4)
        form = tv_tensors.BoundingBoxFormat.XYWH
        boxes = tv_tensors.BoundingBoxes(numbers, format=form, canvas_size=(height, width))  # pyright: ignore[reportCallIssue]
        boxes = v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
        boxes = v2.functional.clamp_bounding_boxes(boxes, clamping_mode="hard")
        kept = [i for i in _nonempty(boxes) if not objects["iscrowd"][i]]
        before = tv_tensors.wrap(boxes[kept], like=boxes)  # pyright: ignore[reportCallIssue]
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reseed the GPUs as well, and with them the denoising of this process
            torch.default_generator.manual_seed(self._seed(index, self.epoch))
            image, after = self.augmentation(image, before)
            noise_seed = torch.randint(2**62, ()).item()
        after = v2.functional.clamp_bounding_boxes(after, clamping_mode="hard")

        # COCO's area is of the object's outline: it keeps its share of the box
        share = torch.tensor([objects["area"][i] for i in kept], dtype=torch.float32) / _areas(before)
        areas = (share * _areas(after)).tolist()
        corners = after.tolist()
        annotations = []
        for position in _nonempty(after):
            x1, y1, x2, y2 = corners[position]
            annotations.append(
                {
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "category_id": objects["category"][kept[position]],
                    "area": areas[position],
                    "iscrowd": 0,
                }
            )
        return {
            "image": image.as_subclass(torch.Tensor),
            "annotation": {"image_id": row["image_id"], "annotations": annotations},
            "noise_seed": noise_seed,
        }

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Heights and widths of the rows, int32 `[rows, 2]`."""
        table = arrow_table(self.rows.select_columns(["width", "height"]))
        return np.stack([table[side].to_numpy().astype(np.int32) for side in ("height", "width")], 1)

    def draw_sizes(self, indices: Sequence[int] | torch.Tensor | None = None, epoch: int | None = None) -> torch.Tensor:
        """
        Heights and widths of samples, int32 `[samples, 2]`: as `Augmentation.draw_size` knows them.

        From the rows' sizes, no image is opened; 100,000 samples take about a second.

        Args:
            indices: of samples; None: each row once.
            epoch: another than this one.
        """
        indices = torch.arange(len(self.rows)) if indices is None else torch.as_tensor(indices)
        epoch = self.epoch if epoch is None else epoch
        sizes, count = np.empty((len(indices), 2), dtype=np.int32), 0
        with torch.random.fork_rng(devices=[]):
            for part in indices.split(_DRAWN_TOGETHER):
                for index, size in zip(part.tolist(), self._sizes[part.numpy() % len(self.rows)].tolist()):
                    torch.default_generator.manual_seed(self._seed(index, epoch))
                    sizes[count] = self.augmentation.draw_size(*size)
                    count += 1
        return torch.from_numpy(sizes)

    def _seed(self, index: int, epoch: int) -> int:
        return hash((self.seed, epoch, index)) % 2**63


def drop_images_without_boxes(rows: Dataset) -> Dataset:
    """Drop the rows that have nothing to learn from."""
    return rows.select(count_objects(rows).nonzero()[0])


def count_objects(rows: Dataset) -> np.ndarray:
    """Count each row's boxes that have an extent and are not a crowd's: int64 `[rows]`."""
    counts = [np.zeros(0, dtype=np.int64)]
    for objects in objects_by_parts(rows):
        sides = objects.field("bbox").flatten().flatten().to_numpy().reshape(-1, 4)[:, 2:]
        crowds = objects.field("iscrowd")
        counted = (sides > SMALLEST_SIDE).all(1) & (crowds.flatten().to_numpy() == 0)
        offsets = crowds.offsets.to_numpy()
        counts.append(np.diff(np.concatenate([[0], np.cumsum(counted)])[offsets - offsets[0]]))
    return np.concatenate(counts)


def collate(samples: list[dict]) -> dict:
    """
    Make samples a batch. `DinoDetrImageProcessor.normalize_padded` makes `pixel_values` of it on the device.

    Returns:
        `images` uint8 `[B, 3, H, W]`, RGB, padded with zeros at the right and bottom, channels last in memory;
        `labels` as the processor gives them; the samples' `noise_seeds`; and `unreadable`, the image files that were
        skipped.
    """
    images = [sample["image"] for sample in samples]
    sizes = [image.shape[-2:] for image in images]
    return {
        "images": stack_padded(images, memory_format=torch.channels_last),
        "labels": [encode_annotation(sample["annotation"], size, size) for sample, size in zip(samples, sizes)],
        "noise_seeds": [sample["noise_seed"] for sample in samples],
        "unreadable": [fault for sample in samples for fault in sample["unreadable"]],
    }


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1).as_subclass(torch.Tensor)


def _nonempty(boxes: torch.Tensor) -> list[int]:
    """Positions of the boxes that have an extent."""
    return ((boxes[:, 2:] - boxes[:, :2]) > SMALLEST_SIDE).all(1).nonzero().flatten().tolist()
