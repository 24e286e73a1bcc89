"""Images to detect in, read one at a time: files, folders, patterns, URLs, videos, and pixels that the caller has."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from ..data.image_sources import ImageSource, find_images
from ..image_processing_dino_detr import upright_rgb
from .video import Frame, Video, is_video

OneImage: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
Images: TypeAlias = "OneImage | Iterable[OneImage]"


@dataclass
class GivenImage:
    """
    An image that the caller holds.

    Args:
        image: PIL image of any mode; uint8 array `[h, w, 3]` RGB; uint8 tensor `[3, h, w]` RGB.
        name: what messages call it.
    """

    image: Image.Image | np.ndarray | Tensor = field(repr=False)
    name: str

    def read(self) -> Tensor:
        """
        Return its upright pixels, uint8 `[3, h, w]`.

        Raises:
            ValueError: if an array or a tensor is of another type or shape.
        """
        image = self.image
        if isinstance(image, Image.Image):
            return pil_to_tensor(upright_rgb(image))
        is_array = isinstance(image, np.ndarray)
        shape = [*image.shape]
        if len(shape) != 3 or shape[2 if is_array else 0] != 3 or image.dtype not in (np.uint8, torch.uint8):
            kind, wanted = ("an array", "[h, w, 3]") if is_array else ("a tensor", "[3, h, w]")
            raise ValueError(f"{self.name}: {kind} must be uint8 {wanted}, RGB; this one is {image.dtype} {shape}")
        return torch.tensor(image).permute(2, 0, 1) if is_array else image


Source: TypeAlias = "ImageSource | GivenImage | Frame"


def find_sources(images: Images) -> Iterator[Source]:
    """
    Yield the images that an argument of `Detector` names or holds, in order, without reading them; of videos, frames.

    Raises:
        ImportError, OSError: see `Video`.
        FileNotFoundError: naming a path for which there is no image.
        TypeError: if it is nothing that an image can be.
    """
    if isinstance(images, (str, Path)):
        for source in find_images([str(images)]):
            yield from Video(source.name) if is_video(source.name) else [source]
    elif isinstance(images, (Image.Image, np.ndarray, Tensor)) and getattr(images, "ndim", 3) < 4:
        yield GivenImage(images, "the image")
    elif isinstance(images, Iterable):
        for number, image in enumerate(images):
            yield from _find_in_list(image, number)
    else:
        raise TypeError(f"images: {type(images).__name__} is no path, URL, PIL image, array, tensor or list of these")


def read_source(source: Source) -> Tensor | OSError:
    """Return the pixels of an image, uint8 `[3, h, w]`, or why it cannot be read."""
    try:
        return source.read()
    except OSError as fault:
        return fault


def _find_in_list(image: Any, number: int) -> Iterator[Source]:
    for source in find_sources(image):
        if isinstance(source, GivenImage):
            source.name = f"image {number}"
        yield source
