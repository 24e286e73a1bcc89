"""Training augmentations, on torchvision's box-aware transforms.

Each is some optional parts (photometric distortion, zoom-out, IoU crop, flip), then a sizing. What an IoU crop leaves
is resized to the proportions of the whole image (SSD's is to a square), so that the size of a sample can be told before
its image is opened, and batches be made of images of one size. What is filled around an image, by zoom-out or
large-scale jitter, has the mean colour and counts as image: boxes are relative to the canvas, and `pixel_mask` covers
it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..image_processing_dino_detr import at_least_a_patch

_MEAN_COLOUR = [124, 116, 104]  # RGB, 0..255; about 0 when normalised

_OFF = {"horizontal_flip": 0.0, "photometric_distort": False, "zoom_out": False, "iou_crop": False}
_PARTS = {
    "reference": {**_OFF, "horizontal_flip": 0.5},
    "large_scale_jitter": {**_OFF, "horizontal_flip": 0.5},
    "finetune": {"horizontal_flip": 0.5, "photometric_distort": True, "zoom_out": True, "iou_crop": True},
    "none": _OFF,
}
AUGMENTATIONS = tuple(_PARTS)


class Draws(NamedTuple):
    """
    What is drawn for the sizing of a sample: numbers in 0..1, all of them for every sample, in this order.

    `large_scale_jitter` crops without a drawn size and fills instead, so it takes them by the names of `JitterDraws`.
    """

    edge: float  # which of the sizes
    whole: float  # below 0.5 the image stays whole
    edge_before_crop: float
    crop_height: float
    crop_width: float
    crop_top: float
    crop_left: float


class JitterDraws(NamedTuple):
    """What is drawn for `large_scale_jitter`: numbers in 0..1."""

    scale: float
    crop_top: float
    crop_left: float
    fill_above: float
    fill_before: float


Size = tuple[int, int]  # height and width, in pixels
Steps = list[tuple[Callable, dict]]  # transforms of image and boxes, with their arguments


def build_augmentation(
    name: str,
    image_sizes: list[int],
    max_image_size: int,
    horizontal_flip: float | None = None,
    photometric_distort: bool | None = None,
    zoom_out: bool | None = None,
    iou_crop: bool | None = None,
) -> "Augmentation":
    """
    An augmentation by name; its parts are as the name says where they are None.

    Args:
        name: `reference` (flip; the shortest edge drawn from `image_sizes`, in half of the cases after a resize and a
            crop: RECIPE.md of the reference, which has it from DETR), `large_scale_jitter` (flip; scaled by 0.1 to 2
            onto a square of fixed size, cropped or filled at random sides: Ghiasi et al. 2021, "Simple Copy-Paste"),
            `finetune` (photometric distortion, zoom-out, IoU crop and flip as torchvision's references train SSD, then
            the shortest edge drawn) or `none` (the shortest edge drawn).
        image_sizes: shortest edges to draw from, in pixels; for `large_scale_jitter` one, the square's side.
        max_image_size: the longest edge, in pixels.
        horizontal_flip: probability.
        photometric_distort: brightness, contrast, saturation, hue and channel order, each in half of the cases.
        zoom_out: onto a canvas of up to 4 times the side, in half of the cases.
        iou_crop: crops that keep a drawn overlap with a box (SSD's).

    Raises:
        ValueError: for another name, a probability outside 0..1, or several `image_sizes` for `large_scale_jitter`.
    """
    if name not in _PARTS:
        raise ValueError(f"unknown augmentation {name!r}; choose from {', '.join(AUGMENTATIONS)}")
    asked = {
        "horizontal_flip": horizontal_flip,
        "photometric_distort": photometric_distort,
        "zoom_out": zoom_out,
        "iou_crop": iou_crop,
    }
    on = _PARTS[name] | {part: value for part, value in asked.items() if value is not None}
    if not 0 <= on["horizontal_flip"] <= 1:
        raise ValueError(f"horizontal_flip={horizontal_flip} is a probability: between 0 and 1")
    if name == "large_scale_jitter" and len(image_sizes) != 1:
        raise ValueError(
            f"large_scale_jitter has one size, the side of its square, but image_sizes are {image_sizes}: give one, "
            f"image_sizes: {max(image_sizes)}"
        )
    if name == "reference":
        sizing = partial(scale_crop_scale, sizes=image_sizes, longest=max_image_size)
    elif name == "large_scale_jitter":
        sizing = partial(large_scale_jitter, side=image_sizes[0])
    else:
        sizing = partial(multi_scale, sizes=image_sizes, longest=max_image_size)
    parts = []
    if on["photometric_distort"]:
        parts.append(v2.RandomPhotometricDistort())
    if on["zoom_out"]:
        parts.append(v2.RandomZoomOut(fill=_MEAN_COLOUR))
    if on["iou_crop"]:
        parts.append(_iou_crop)
    # A photograph of 12 megapixels zoomed out by 4 would be half a gigabyte.
    largest = max_image_size if parts else None
    if on["horizontal_flip"]:
        parts.append(v2.RandomHorizontalFlip(on["horizontal_flip"]))
    return Augmentation(parts, sizing, largest)


class Augmentation:
    """
    Augments (image, boxes): uint8 `tv_tensors.Image [3, h, w]` and xyxy `tv_tensors.BoundingBoxes [n, 4]`.

    Draws from torch's global generator. Boxes may come out empty, where a crop left nothing of them.

    Args:
        parts: called with (image, boxes), one after the other.
        sizing: from height, width and `Draws`, the steps to take and the (height, width) they lead to.
        largest: longer side in pixels to which larger images are shrunk first.
    """

    def __init__(
        self,
        parts: list[Callable],
        sizing: Callable[[int, int, Draws], tuple[Steps, Size]],
        largest: int | None = None,
    ):
        self.parts, self.sizing, self.largest = parts, sizing, largest

    def __call__(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes]:
        draws = _draw()  # before all else, as in draw_size
        size = self._shrunk(*F.get_size(image))
        if list(size) != F.get_size(image):
            image, boxes = _apply([_resize(size)], image, boxes)
        for part in self.parts:
            image, boxes = part(image, boxes)
        steps, _ = self.sizing(*size, draws)  # of the whole image, which undoes what a crop did to its proportions
        return _apply(steps, image, boxes)

    def draw_size(self, height: int, width: int) -> tuple[int, int]:
        """
        Height and width to which a call in the same state of the generator would bring an image.

        Takes microseconds.
        """
        return self.sizing(*self._shrunk(height, width), _draw())[1]

    def _shrunk(self, height: int, width: int) -> Size:
        if self.largest is None or max(height, width) <= self.largest:
            return height, width
        return _scaled(height, width, self.largest / max(height, width))


def _draw() -> Draws:
    return Draws(*torch.rand(len(Draws._fields)).tolist())


def multi_scale(height: int, width: int, draws: Draws, sizes: list[int], longest: int | None) -> tuple[Steps, Size]:
    """Resize the shortest edge to one of `sizes`, the longest to `longest` at most."""
    size = _resized(height, width, sizes[int(draws.edge * len(sizes))], longest)
    return [_resize(size)], size


def scale_crop_scale(height: int, width: int, draws: Draws, sizes: list[int], longest: int) -> tuple[Steps, Size]:
    """
    Scale as `multi_scale` does, in half of the cases after a resize and a crop.

    The resize is to 400, 500 or 600 pixels, the crop of 384..600 pixels a side.
    """
    if draws.whole < 0.5:
        return multi_scale(height, width, draws, sizes, longest)
    scale = max(sizes) / 800  # the reference's numbers are for images of up to 800 pixels
    edge = (400, 500, 600)[int(draws.edge_before_crop * 3)]
    before = _resized(height, width, round(edge * scale), None)
    smallest, largest = round(384 * scale), round(600 * scale)
    crop_height = _between(smallest, largest, draws.crop_height, at_most=before[0])
    crop_width = _between(smallest, largest, draws.crop_width, at_most=before[1])
    top = int(draws.crop_top * (before[0] - crop_height + 1))
    left = int(draws.crop_left * (before[1] - crop_width + 1))
    cut = (_crop, {"top": top, "left": left, "height": crop_height, "width": crop_width})
    steps, size = multi_scale(crop_height, crop_width, draws, sizes, longest)
    return [_resize(before), cut, *steps], size


def large_scale_jitter(height: int, width: int, draws: Draws, side: int) -> tuple[Steps, Size]:
    """Scale to 0.1..2 times what fits a square, then crop what is beyond it and fill what is missing, somewhere."""
    drawn = JitterDraws(*draws[: len(JitterDraws._fields)])
    size = _scaled(height, width, (0.1 + 1.9 * drawn.scale) * side / max(height, width))
    top = int(drawn.crop_top * (max(size[0] - side, 0) + 1))
    left = int(drawn.crop_left * (max(size[1] - side, 0) + 1))
    cut = (_crop, {"top": top, "left": left, "height": min(size[0], side), "width": min(size[1], side)})
    missing = [max(side - length, 0) for length in size]
    above, before = int(drawn.fill_above * (missing[0] + 1)), int(drawn.fill_before * (missing[1] + 1))
    padding = [before, above, missing[1] - before, missing[0] - above]
    return [_resize(size), cut, (F.pad, {"padding": padding, "fill": _MEAN_COLOUR})], (side, side)


def _between(low: int, high: int, draw: float, at_most: int) -> int:
    """Return a whole number from `low` to `high`, or of the two as far as `at_most` allows."""
    low, high = min(low, at_most), min(high, at_most)
    return low + int(draw * (high + 1 - low))


def _resized(height: int, width: int, shortest: int, longest: int | None) -> Size:
    scale = shortest / min(height, width)
    size = _scaled(height, width, scale if longest is None else min(scale, longest / max(height, width)))
    return at_least_a_patch(*size, shortest)


def _scaled(height: int, width: int, scale: float) -> Size:
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))  # rounded as detectron2 does


def _resize(size: Size) -> tuple[Callable, dict]:
    return F.resize, {"size": list(size), "antialias": True}


def _crop(image_or_boxes: torch.Tensor, **box: int) -> torch.Tensor:
    crop = F.crop(image_or_boxes, **box)
    if isinstance(crop, tv_tensors.Image):  # a copy is resized twice as fast as a view
        copy = crop.as_subclass(torch.Tensor)[None].contiguous(memory_format=torch.channels_last)[0]
        crop = tv_tensors.Image(copy)
    return crop


def _apply(steps: Steps, image: torch.Tensor, boxes: torch.Tensor) -> tuple:
    for step, params in steps:
        image, boxes = step(image, **params), step(boxes, **params)
    return image, boxes


def _iou_crop(image: torch.Tensor, boxes: torch.Tensor) -> tuple:
    if min(F.get_size(image)) < 4:  # a crop of 0.3 has no pixel
        return image, boxes
    return v2.RandomIoUCrop()(image, boxes)
