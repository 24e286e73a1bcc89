"""Training augmentations, on torchvision's box-aware transforms."""

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

AUGMENTATIONS = ("reference", "none")


def build_augmentation(name: str, image_sizes: list[int], max_image_size: int) -> v2.Transform:
    """
    An augmentation of (image, boxes): uint8 `tv_tensors.Image [3, h, w]` and xyxy `tv_tensors.BoundingBoxes [n, 4]`.

    Draws from torch's global generator. Boxes may come out empty, where a crop left nothing of them.

    Args:
        name: `reference` (flip and multi-scale, in half of the cases with a crop between: RECIPE.md of the reference,
            which has it from DETR) or `none` (the shortest edge alone is drawn).
        image_sizes: shortest edges to draw from, in pixels.
        max_image_size: the longest edge, in pixels.

    Raises:
        ValueError: for another name.
    """
    resize = RandomShortestEdge(image_sizes, max_image_size)
    if name == "none":
        return resize
    if name == "reference":
        scale = max(image_sizes) / 800  # the reference's numbers are for images of up to 800 pixels
        before_crop = RandomShortestEdge([round(size * scale) for size in (400, 500, 600)], None)
        crop = RandomCropBetween(round(384 * scale), round(600 * scale))
        cropped = v2.Compose([before_crop, crop, resize])
        return v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomChoice([resize, cropped])])
    raise ValueError(f"unknown augmentation {name!r}; choose from {', '.join(AUGMENTATIONS)}")


class RandomShortestEdge(v2.Transform):
    """Resize the shortest edge to one of `sizes`, the longest to `max_size` at most, rounding as detectron2 does."""

    def __init__(self, sizes: list[int], max_size: int | None):
        super().__init__()
        self.sizes, self.max_size = sizes, max_size

    def make_params(self, flat_inputs: list) -> dict:
        height, width = v2.query_size(flat_inputs)
        scale = self.sizes[int(torch.randint(len(self.sizes), ()))] / min(height, width)
        if self.max_size is not None:
            scale = min(scale, self.max_size / max(height, width))
        return {"size": [max(1, int(side * scale + 0.5)) for side in (height, width)]}

    def transform(self, inpt, params: dict):
        return self._call_kernel(F.resize, inpt, params["size"], antialias=True)


class RandomCropBetween(v2.Transform):
    """Crop to height and width each drawn from [min(side, smallest), min(side, largest)]."""

    def __init__(self, smallest: int, largest: int):
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def make_params(self, flat_inputs: list) -> dict:
        height, width = v2.query_size(flat_inputs)
        new_height, new_width = (
            int(torch.randint(min(side, self.smallest), min(side, self.largest) + 1, ())) for side in (height, width)
        )
        top = int(torch.randint(height - new_height + 1, ()))
        left = int(torch.randint(width - new_width + 1, ()))
        return {"top": top, "left": left, "height": new_height, "width": new_width}

    def transform(self, inpt, params: dict):
        crop = self._call_kernel(F.crop, inpt, **params)
        if isinstance(crop, tv_tensors.Image):  # a copy is resized twice as fast as a view
            copy = crop.as_subclass(torch.Tensor)[None].contiguous(memory_format=torch.channels_last)[0]
            crop = tv_tensors.wrap(copy, like=crop)
        return crop
