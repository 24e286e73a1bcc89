"""Images and COCO annotations become tensors; the model's outputs become boxes in pixels."""

import os
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import nms
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import (
    AnnotationFormat,
    PILImageResampling,
    SizeDict,
    get_image_size_for_max_height_width,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils.generic import TensorType

from .boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from .padding import mask_padding
from .upright import upright_rgb

SMALLEST_SIDE = 16  # pixels, a patch: what is left of the short side of an image that is very long


class DinoDetrImageProcessorKwargs(ImagesKwargs, total=False):
    """
    What the processor takes beyond `ImagesKwargs`, when it is made and when it is called.

    Args:
        format: of the annotations; `coco_detection` is the only one.
        do_convert_annotations: whether boxes become (cx, cy, w, h) in 0..1, as the model wants them; otherwise they
            are (left, top, right, bottom) in pixels of the resized image.
    """

    format: str | AnnotationFormat
    do_convert_annotations: bool


class DinoDetrImageProcessor(TorchvisionBackend):
    r"""
    The processor of `DinoDetrForObjectDetection`.

    Images (PIL, numpy, tensors, paths, or lists of them) are turned upright, made RGB, resized so that the shortest
    edge has `size["shortest_edge"]` pixels unless the longest would exceed `size["longest_edge"]`, normalised, and
    padded with zeros at the right and bottom to the largest of the batch. No side becomes less than 16 pixels, a patch,
    unless it is asked for.

    ```python
    inputs = processor(images, annotations=[{"image_id": 1, "annotations": [...]}], return_tensors="pt")
    ```

    Annotations are COCO's, one dict an image: `image_id` and `annotations`, a list of dicts with `bbox` (x, y, w, h in
    pixels of the upright image), `category_id` (the class index, 0..K-1) and optionally `area` and `iscrowd`. Crowds
    are dropped, boxes clipped to the image, empty ones dropped.

    Returns a `BatchFeature` with `pixel_values` float32 `[B, 3, H, W]`, `pixel_mask` int64 `[B, H, W]` (1 = image) and,
    with annotations, `labels`: for each image `class_labels` int64 `[n]`, `boxes` float32 `[n, 4]` (cxcywh in 0..1 of
    the unpadded image), `area` float32 `[n]` (pixels of the resized image), `iscrowd` int64 `[n]`, `image_id` int64
    `[1]`, `size` and `orig_size` int64 `[2]` (height, width after and before resizing).
    """

    valid_kwargs = DinoDetrImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 800, "longest_edge": 1333}
    default_to_square = False
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_pad = True
    do_convert_rgb = True
    format = AnnotationFormat.COCO_DETECTION
    do_convert_annotations = True
    top_k = 300
    model_input_names = ["pixel_values", "pixel_mask"]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Fetch images; files are opened with Pillow, so that they become what their images become."""
        if isinstance(image_url_or_urls, str) and os.path.isfile(image_url_or_urls):
            return Image.open(image_url_or_urls)
        return super().fetch_images(image_url_or_urls)

    def process_image(self, image: Any, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Turn an image into a tensor, after making PIL images upright RGB."""
        if isinstance(image, Image.Image):
            image = upright_rgb(image)
        return super().process_image(image, **kwargs)

    def resize(self, image: Tensor, size: SizeDict, *args: Any, **kwargs: Any) -> Tensor:
        """Resize an image; the short side of a very long one stays at least a patch."""
        height, width = image.shape[-2:]
        if size.shortest_edge and size.longest_edge:
            new_size = get_size_with_aspect_ratio((height, width), size.shortest_edge, size.longest_edge)
            wanted = size.shortest_edge
        elif size.max_height and size.max_width:
            new_size = get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
            wanted = min(size.max_height, size.max_width)
        else:
            return super().resize(image, size, *args, **kwargs)
        height, width = at_least_a_patch(*new_size, wanted)
        return super().resize(image, SizeDict(height=height, width=width), *args, **kwargs)

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: Any, annotations: dict | list[dict] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Process images as the class says; `annotations` is one dict for one image or a list of them."""
        return super().preprocess(images, annotations, **kwargs)

    def _preprocess(  # pyright: ignore[reportIncompatibleMethodOverride] transformers names all arguments
        self,
        images: list[Tensor],
        annotations: dict | list[dict] | None,
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float],
        image_std: float | list[float],
        do_pad: bool,
        pad_size: Any,
        return_tensors: str | TensorType | None,
        format: str | AnnotationFormat,
        do_convert_annotations: bool,
        **kwargs: Any,
    ) -> BatchFeature:
        if annotations is not None and AnnotationFormat(format) is not AnnotationFormat.COCO_DETECTION:
            raise ValueError(
                f"format={str(AnnotationFormat(format).value)!r}: annotations can be 'coco_detection' only"
            )
        if isinstance(annotations, dict):
            annotations = [annotations]
        if annotations is not None and len(annotations) != len(images):
            raise ValueError(f"annotations describes {len(annotations)} images, but {len(images)} were given")
        processed = [self.resize(image, size=size, resample=resample) if do_resize else image for image in images]
        labels = None
        if annotations is not None:
            labels = [
                encode_annotation(annotation, image.shape[-2:], resized.shape[-2:], do_convert_annotations)
                for annotation, image, resized in zip(annotations, images, processed)
            ]
        processed = [
            self.rescale_and_normalize(image, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            for image in processed
        ]
        data = {}
        if do_pad:
            sizes = torch.tensor([image.shape[-2:] for image in processed])
            processed = stack_padded(processed, pad_size)
            data["pixel_mask"] = mask_padding(sizes, *processed.shape[-2:])
        elif len({image.shape for image in processed}) == 1:
            processed = torch.stack(processed)
        data["pixel_values"] = processed
        features = BatchFeature(data, tensor_type=return_tensors)
        if labels is not None:
            features["labels"] = [BatchFeature(label, tensor_type=return_tensors) for label in labels]
        return features

    def normalize_padded(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """
        Do what `preprocess` does after resizing, for images that were padded first, on their device.

        The values are the same, and a device gets four times fewer bytes.

        Args:
            images: uint8 `[B, 3, H, W]`, padded at the right and bottom.
            sizes: int64 `[B, 2]`, height and width of each without its padding.

        Returns:
            `pixel_values` float32 `[B, 3, H, W]`, 0 in the padding, and `pixel_mask` int64 `[B, H, W]`.
        """
        pixel_mask = mask_padding(sizes, *images.shape[-2:])
        statistics = tuple(self.image_mean), tuple(self.image_std)
        pixel_values = self.rescale_and_normalize(
            images.contiguous(),
            self.do_rescale,
            self.rescale_factor,
            self.do_normalize,
            *statistics,  # pyright: ignore[reportArgumentType] tuples are cached by
        )
        return {"pixel_values": pixel_values.masked_fill_(pixel_mask[:, None] == 0, 0), "pixel_mask": pixel_mask}

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: Tensor | list[tuple[int, int]] | list[Tensor] | None = None,
        top_k: int = 300,
        one_label_per_query: bool = False,
        nms_threshold: float | None = None,
    ) -> list[dict[str, Tensor]]:
        """
        Return the model's best detections, by default over queries x classes and without suppression, as the
        reference takes them.

        Args:
            outputs: of `DinoDetrForObjectDetection`.
            threshold: only scores above it, 0..1.
            target_sizes: (height, width) of each image in pixels, as a tensor `[B, 2]` or a list of pairs, tensors or
                arrays; None leaves boxes in 0..1.
            top_k: at most this many an image.
            one_label_per_query: of each query, only the label of the best score; a box has no further labels then.
            nms_threshold: drop what overlaps a better detection, of whatever class, by more than this IoU, 0..1; None:
                nothing is dropped. The `top_k` are taken before.

        Returns:
            For each image `{"scores" [n], "labels" [n], "boxes" [n, 4]}`, best first; boxes are xyxy, clipped to the
            image, and empty ones are removed.

        Raises:
            ValueError: if `target_sizes` is not one size an image, or `nms_threshold` is no IoU.
        """
        detections = select_detections(outputs.logits, outputs.pred_boxes, target_sizes, top_k, one_label_per_query)
        results = []
        for scores, labels, boxes in zip(*detections):
            scores, labels, boxes = suppress_overlaps(scores, labels, boxes, nms_threshold)
            keep = (scores > threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
            results.append({"scores": scores[keep], "labels": labels[keep], "boxes": boxes[keep]})
        return results


def at_least_a_patch(height: int, width: int, wanted: int) -> tuple[int, int]:
    """Return a size, in pixels, with no side below a patch or, if that is less, below the side that was `wanted`."""
    smallest = min(SMALLEST_SIDE, wanted)
    return max(height, smallest), max(width, smallest)


def stack_padded(
    images: list[Tensor], pad_size: Any = None, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """
    Stack images `[C, h, w]` to a batch `[B, C, H, W]`, with zeros at the right and bottom.

    Args:
        pad_size: `height` and `width` of the batch, in pixels; None: of the tallest and the widest image.

    Raises:
        ValueError: if an image is larger than `pad_size`.
    """
    height, width = (max(image.shape[side] for image in images) for side in (-2, -1))
    if pad_size is not None:
        if pad_size.height < height or pad_size.width < width:
            raise ValueError(
                f"pad_size {pad_size.height} x {pad_size.width} is less than an image's {height} x {width}"
            )
        height, width = pad_size.height, pad_size.width
    batch = torch.empty(
        (len(images), images[0].shape[0], height, width),
        dtype=images[0].dtype,
        device=images[0].device,
        memory_format=memory_format,
    )
    for place, image in zip(batch, images):
        h, w = image.shape[-2:]
        place[:, :h, :w] = image
        place[:, h:] = 0
        place[:, :h, w:] = 0
    return batch


def select_detections(
    logits: Tensor,
    pred_boxes: Tensor,
    target_sizes: Tensor | list[tuple[int, int]] | list[Tensor] | None,
    top_k: int,
    one_label_per_query: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Return the best `n` of each image: scores `[B, n]`, class indices `[B, n]`, boxes `[B, n, 4]`.

    They are of Q queries x K classes, or of Q queries with the best class of each; `n` is `top_k` or, if that is less,
    their number. Boxes are xyxy, clipped to the image; in pixels with `target_sizes` (height, width), else in 0..1;
    maybe empty.
    """
    scores, labels = logits.float().sigmoid(), torch.arange(logits.shape[2], device=logits.device).expand_as(logits)
    if one_label_per_query:
        scores, labels = scores.max(2, keepdim=True)
    num_labels = scores.shape[2]
    scores, indices = scores.flatten(1).topk(min(top_k, scores[0].numel()), dim=1)
    labels = labels.flatten(1).gather(1, indices)
    boxes = cxcywh_to_xyxy(pred_boxes.float()).gather(1, (indices // num_labels)[..., None].expand(-1, -1, 4))
    boxes = boxes.clamp(0, 1)
    if target_sizes is not None:
        boxes = boxes * _stack_sizes(target_sizes, boxes).flip(1).repeat(1, 2)[:, None]
    return scores, labels, boxes


def _stack_sizes(target_sizes: Tensor | list, boxes: Tensor) -> Tensor:
    """Stack sizes of any form to `[B, 2]`, beside the `boxes` of `B` images."""
    if isinstance(target_sizes, Tensor):
        sizes = target_sizes
    else:
        sizes = [torch.as_tensor(size).cpu() for size in target_sizes]
        uniform = {size.shape for size in sizes} == {(2,)}
        sizes = torch.stack([size.to(boxes.dtype) for size in sizes]) if uniform else torch.empty(0)
    if sizes.shape != (len(boxes), 2):
        raise ValueError(
            f"target_sizes must be {len(boxes)} pairs of (height, width), one for each image, "
            f"not {len(target_sizes)} of another shape"
        )
    return sizes.to(boxes.device, boxes.dtype)


def suppress_overlaps(
    scores: Tensor, labels: Tensor, boxes: Tensor, nms_threshold: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Drop the detections of an image, best first, that overlap a better one of any class by an IoU above the threshold.
    None drops nothing.
    """
    if nms_threshold is None:
        return scores, labels, boxes
    if not 0 <= nms_threshold <= 1:
        raise ValueError(f"nms_threshold={nms_threshold}: an IoU, from 0 to 1")
    kept = nms(boxes, scores, nms_threshold)
    return scores[kept], labels[kept], boxes[kept]


def encode_annotation(
    annotation: dict, original: tuple[int, ...], resized: tuple[int, ...], relative: bool = True
) -> dict[str, Tensor]:
    """
    Turn one image's COCO annotation into what the model wants.

    Args:
        original, resized: height and width of the image before and after resizing.
        relative: whether boxes become (cx, cy, w, h) in 0..1; otherwise (left, top, right, bottom) in pixels.
    """
    for field in ("image_id", "annotations"):
        if field not in annotation:
            raise ValueError(f"annotations: an entry has no {field!r}; it has {sorted(annotation)}")
    image_id = annotation["image_id"]
    objects = [item for item in annotation["annotations"] if not item.get("iscrowd", 0)]
    for item in objects:
        missing = {"bbox", "category_id"} - set(item)
        if missing:
            raise ValueError(f"annotations: an object of image {image_id} has no {sorted(missing)[0]!r}")
    height, width = original
    boxes = torch.tensor([item["bbox"] for item in objects], dtype=torch.float32).reshape(-1, 4)
    extent = torch.tensor([width, height], dtype=torch.float32)
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    corners = torch.minimum(corners.clamp(min=0), extent.repeat(2)) / extent.repeat(2)
    keep = (corners[:, 2:] > corners[:, :2]).all(1)
    area = torch.tensor([item.get("area", item["bbox"][2] * item["bbox"][3]) for item in objects], dtype=torch.float32)
    scale = resized[0] * resized[1] / (height * width)
    in_pixels = corners[keep] * torch.tensor([resized[1], resized[0]], dtype=torch.float32).repeat(2)
    return {
        "class_labels": torch.tensor([item["category_id"] for item in objects], dtype=torch.int64)[keep],
        "boxes": xyxy_to_cxcywh(corners[keep]) if relative else in_pixels,
        "area": area[keep] * scale,
        "iscrowd": torch.zeros(int(keep.sum()), dtype=torch.int64),
        "image_id": torch.tensor([image_id], dtype=torch.int64),
        "size": torch.tensor(resized, dtype=torch.int64),
        "orig_size": torch.tensor(original, dtype=torch.int64),
    }


__all__ = ["DinoDetrImageProcessor"]
