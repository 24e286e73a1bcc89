"""A checkpoint or an export, ready to detect."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForObjectDetection
from transformers.image_utils import ChannelDimension

from ..data.decoding import describe_fault
from ..evaluation.detections import TOP_K, detect_in_batch
from ..evaluation.operating_point import read_threshold
from ..evaluation.precision import autocast_as_trained
from ..export.runtime import ExportedDetector, is_export
from ..image_processing_dino_detr import suppress_overlaps
from .detections import Detections
from .inputs import Images, Source, find_sources, read_source
from .tiles import Found, check_tiles, merge_tiles, place_tiles
from .video import Frame

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

Threshold = float | Mapping[str, float]


class Detector:
    """
    A checkpoint, ready to detect. It computes in the precision in which its run evaluated.

    ```python
    detector = Detector("runs/quickstart")
    for found in detector("folder_of_images", threshold={"cat": 0.3}):
        print(found.source.name, found)
    ```

    Args:
        source: folder or Hub id of a checkpoint or of what `dino-detr export` wrote.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None: a GPU if there is one.

    Attributes:
        model, processor: the checkpoint's.
        threshold: the score that its run's report found best, or 0.5.
        precision_note: a sentence on the precision, if it is not float32.

    Raises:
        FileNotFoundError: if `source` is neither a folder nor a Hub id.
        ValueError: if there is no such device.
    """

    def __init__(self, source: str | Path, device: str | None = None):
        source = str(source)
        if not Path(source).is_dir() and not _is_hub_id(source):
            raise FileNotFoundError(f"no checkpoint folder {source}")
        found_device = find_device(device)  # before the weights are loaded
        if is_export(source):
            self.model: Any = ExportedDetector(source, device).eval()
        else:
            self.model = AutoModelForObjectDetection.from_pretrained(source).eval().to(found_device)
        self.processor = AutoImageProcessor.from_pretrained(source)
        self.threshold = read_threshold(source)
        self.autocast, self.precision_note = autocast_as_trained(source, self.model.device)
        config = self.model.config
        self.id2label: dict[int, str] = config.id2label
        self.category_ids: list = config.category_ids or list(range(config.num_labels))

    def __call__(self, images: Images, threshold: Threshold | None = None, **options: Any) -> list[Detections]:
        """
        Detect in images.

        Args:
            images: a file, folder, pattern or URL; a video, of which every frame is an image; a PIL image of any mode;
                a uint8 RGB array `[h, w, 3]` or tensor `[3, h, w]`; or a list of these.
            threshold: only scores above it, 0..1, or a score for each of some class names. None, and classes that are
                not named: the detector's own.
            options: see `stream`.

        Returns:
            What was found in each image, without its pixels.

        Raises:
            FileNotFoundError, OSError: if there is no such image, or it cannot be read.
            ValueError: if a class name, a threshold, an array or a tensor is none.
        """
        results = []
        for found in self.stream(images, threshold, **options):
            found.image = None
            if isinstance(found.source, Frame):
                found.source.pixels = None
            results.append(found)
        return results

    def stream(self, images: Images, threshold: Threshold | None = None, **options: Any) -> Iterator[Detections]:
        """
        Detect in images of any number, one after the other. Only a batch of them is in memory.

        Args:
            images, threshold: as above.
            batch_size: images at a time, at most (default 8). Only images of one processed size are batched, so that
                none is padded and an image's result does not depend on its neighbours.
            tiles: detect in tiles of this many pixels too, and merge class by class what is found there and in the
                whole image (default: no tiles). For small objects in large images; takes a tile's time for each.
            overlap: of neighbouring tiles, as a share of their side (default 0.2): no less than the small objects.
            one_label_per_query, nms_threshold: as in `DinoDetrImageProcessor.post_process_object_detection`.

        Yields:
            What was found in each image, with its pixels.

        Raises:
            As above.
        """
        thresholds = self.thresholds(threshold)
        for source, found in self.detect(find_sources(images), **options):
            if isinstance(found, OSError):
                raise OSError(f"{source.name}: cannot be read: {describe_fault(found)}") from found
            yield found[found.scores > thresholds[found.labels]]

    def detect(
        self,
        sources: Iterable[Source],
        batch_size: int = 8,
        tiles: int | None = None,
        overlap: float = 0.2,
        **post_processing: Any,
    ) -> Iterator[tuple[Source, Detections | OSError]]:
        """
        Read images and detect in them; arguments are those of `stream`.

        Yields:
            For each image, detections of every score, with its pixels; or why it cannot be read.
        """
        check_tiles(tiles, overlap)
        sources = iter(sources)
        while some := list(islice(sources, batch_size)):
            contents = [read_source(source) for source in some]
            readable = [pixels for pixels in contents if isinstance(pixels, Tensor)]
            with self.autocast:
                detected = iter(self._detect_in_images(readable, tiles, overlap, batch_size, **post_processing))
            for source, pixels in zip(some, contents):
                if isinstance(pixels, OSError):
                    yield source, pixels
                    continue
                scores, labels, boxes = next(detected)
                of_image = (pixels.shape[1], pixels.shape[2]), self.id2label, self.category_ids, source, pixels
                yield source, Detections(boxes, scores, labels, *of_image)

    def thresholds(self, threshold: Threshold | None) -> Tensor:
        """
        Return the threshold of each class index, float32 `[K]`.

        Raises:
            ValueError: if a name is no class, or a threshold no score.
        """
        names = [self.id2label[label] for label in range(len(self.id2label))]
        by_name = threshold if isinstance(threshold, Mapping) else dict.fromkeys(names, threshold)
        for name, score in by_name.items():
            if name not in names:
                raise ValueError(f"threshold: {name!r} is none of the classes {', '.join(names)}")
            if score is not None and not 0 <= score <= 1:
                raise ValueError(f"threshold {score}: a score, from 0 to 1")
        scores = [by_name.get(name) for name in names]
        return torch.tensor([self.threshold if score is None else score for score in scores])

    def _detect_in_images(
        self,
        images: list[Tensor],
        tiles: int | None,
        overlap: float,
        batch_size: int,
        one_label_per_query: bool = False,
        nms_threshold: float | None = None,
    ) -> list[Found]:
        """Return what is found in each of some uint8 images `[3, h, w]`, best first, in tiles if wanted."""
        if tiles is None:
            return self._detect_in_pixels(images, batch_size, one_label_per_query, nms_threshold)
        results = []
        for image in images:
            places, found = place_tiles(image.shape[1], image.shape[2], tiles, overlap), []
            for start in range(0, len(places), batch_size):
                pieces = [image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in places[start : start + batch_size]]
                found += self._detect_in_pixels(pieces, batch_size, one_label_per_query, nms_threshold)
            results.append(suppress_overlaps(*merge_tiles(places, found), nms_threshold))
        return results

    @torch.no_grad()
    def _detect_in_pixels(
        self, images: list[Tensor], batch_size: int, one_label_per_query: bool, nms_threshold: float | None
    ) -> list[Found]:
        """Return what is found in each of some uint8 images `[3, h, w]`, best first."""
        by_size = defaultdict(list)
        processed = []
        for position, image in enumerate(images):
            inputs = self.processor([image], input_data_format=ChannelDimension.FIRST, return_tensors="pt")
            processed.append(inputs["pixel_values"])
            by_size[processed[position].shape].append(position)
        results: list[Any] = [None] * len(images)
        for positions in by_size.values():
            for start in range(0, len(positions), batch_size):
                some = positions[start : start + batch_size]
                batch = torch.cat([processed[position] for position in some])
                sizes = [tuple(images[position].shape[-2:]) for position in some]
                best = detect_in_batch(self.model, batch, sizes, TOP_K, one_label_per_query, nms_threshold)
                for position, (scores, labels, boxes) in zip(some, best):
                    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
                    results[position] = scores[keep], labels[keep], boxes[keep]
        return results


def find_device(name: str | None) -> torch.device:
    """
    Return the device of a name; of None, a GPU if there is one, else the CPU.

    Raises:
        ValueError: if there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" computes nothing
    except Exception as error:  # each backend has its own
        lines = str(error).strip().splitlines()
        raise ValueError(f"there is no device {name!r} here: {lines[0] if lines else type(error).__name__}") from error
    return device


def _is_hub_id(source: str) -> bool:
    """Tell whether a source looks like user/name, and not like a path in a folder that is here."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source).parent.is_dir()
