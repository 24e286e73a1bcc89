"""Detection in images, wherever they are: `Detector`, and the pictures and files of `dino-detr predict`."""

import glob
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import AutoImageProcessor, AutoModelForObjectDetection
from transformers.image_utils import ChannelDimension

from .data.decoding import decode_rgb
from .data.image_files import IMAGE_SUFFIXES
from .evaluation.detections import TOP_K, detect_in_batch
from .image_processing_dino_detr import upright_rgb

_URL_TIMEOUT = 30  # seconds
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class Detector:
    """
    A checkpoint, ready to detect.

    Args:
        source: checkpoint folder or Hub id.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None: a GPU if there is one.

    Raises:
        FileNotFoundError: if `source` is neither a folder nor a Hub id.
        ValueError: if there is no such device.
    """

    def __init__(self, source: str | Path, device: str | None = None):
        source = str(source)
        if not Path(source).is_dir() and not _is_hub_id(source):
            raise FileNotFoundError(f"no checkpoint folder {source}")
        place = find_device(device)
        self.model = AutoModelForObjectDetection.from_pretrained(source).eval().to(place)
        self.processor = AutoImageProcessor.from_pretrained(source)

    @torch.no_grad()
    def __call__(
        self,
        images: Iterable[Image.Image | Tensor],
        threshold: float = 0.5,
        batch_size: int = 8,
        one_label_per_query: bool = False,
        nms_threshold: float | None = None,
    ) -> list[dict[str, Tensor]]:
        """
        Detect in images. Only images of one processed size are batched, so that none is padded and an image's result
        does not depend on its neighbours.

        Args:
            images: PIL images of any mode, or uint8 RGB tensors `[3, h, w]`.
            threshold: only scores above it, 0..1.
            batch_size: images at a time, at most.
            one_label_per_query, nms_threshold: as in `DinoDetrImageProcessor.post_process_object_detection`.

        Returns:
            For each image `{"scores" [n], "labels" [n], "boxes" [n, 4] xyxy px of the upright image}`, best first.
        """
        sizes, processed = [], []
        for image in images:
            if isinstance(image, Image.Image):
                image = pil_to_tensor(upright_rgb(image))
            sizes.append(tuple(image.shape[-2:]))
            inputs = self.processor([image], input_data_format=ChannelDimension.FIRST, return_tensors="pt")
            processed.append(inputs["pixel_values"])
        results: list[dict[str, Tensor]] = [{} for _ in processed]
        by_size = defaultdict(list)
        for position, pixels in enumerate(processed):
            by_size[pixels.shape].append(position)
        for positions in by_size.values():
            for start in range(0, len(positions), batch_size):
                some = positions[start : start + batch_size]
                batch = torch.cat([processed[position] for position in some])
                target_sizes = [sizes[position] for position in some]
                best = detect_in_batch(self.model, batch, target_sizes, TOP_K, one_label_per_query, nms_threshold)
                for position, (scores, labels, boxes) in zip(some, best):
                    keep = (scores > threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
                    results[position] = {"scores": scores[keep], "labels": labels[keep], "boxes": boxes[keep]}
        return results


def _is_hub_id(source: str) -> bool:
    """Tell whether a source looks like user/name, and not like a path in a folder that is here."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source).parent.is_dir()


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
        said = str(error).strip().splitlines()
        raise ValueError(f"there is no device {name!r} here: {said[0] if said else type(error).__name__}") from error
    return device


@dataclass
class ImageSource:
    """
    An image to detect in, not yet read.

    Args:
        name: the file, URL or `-` that it comes from.
        content: its bytes, where they came from elsewhere than a file or URL.
    """

    name: str
    content: bytes | None = None

    @property
    def stem(self) -> str:
        """A file name without folder and suffix, for what is made of the image."""
        if self.name == "-":
            return "stdin"
        path = unquote(re.split(r"[?#]", self.name)[0]) if is_url(self.name) else self.name
        return Path(path).stem or "image"

    def read(self) -> Tensor:
        """
        Return its upright pixels, uint8 `[3, h, w]`.

        Raises:
            OSError: if it cannot be read, or is no image.
        """
        content = self.content
        if content is None and is_url(self.name):
            content = _download(self.name)
        return decode_rgb({"path": self.name, "bytes": content})


def find_images(arguments: list[str], leave_out: Path | None = None) -> list[ImageSource]:
    """
    Return the images that arguments name, each once.

    Args:
        arguments: files, folders (with the folders in them), patterns such as `photos/*.jpg`, URLs, and `-`: of the
            standard input, either one image or the names of images, one a line.
        leave_out: a folder whose files are none of them.

    Raises:
        FileNotFoundError: naming an argument for which there is no image.
    """
    sources: dict[str, ImageSource] = {}
    for argument in arguments:
        for source in _expand(argument, leave_out):
            place = source.name if is_url(source.name) or source.content else os.path.realpath(source.name)
            sources.setdefault(place, source)
    return list(sources.values())


def is_url(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _expand(argument: str, leave_out: Path | None) -> list[ImageSource]:
    if argument == "-":
        return _from_stdin(leave_out)
    if is_url(argument) or os.path.isfile(argument):
        return [ImageSource(argument)]
    if os.path.isdir(argument):
        files = _images_in(argument, leave_out)
        if not files:
            raise FileNotFoundError(f"no images in {argument}")
        return [ImageSource(file) for file in files]
    matches = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else []
    if not matches:
        raise FileNotFoundError(f"no image {argument}")
    files = [file for match in matches for file in (_images_in(match, leave_out) if os.path.isdir(match) else [match])]
    return [ImageSource(file) for file in files]


def _from_stdin(leave_out: Path | None) -> list[ImageSource]:
    content = sys.stdin.buffer.read()
    try:
        names = [] if b"\0" in content else content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        names = []
    names = [name.strip() for name in names if name.strip()]
    if names:
        return [source for name in names if name != "-" for source in _expand(name, leave_out)]
    if not content.strip():
        raise FileNotFoundError("no image -: there is nothing on the standard input")
    return [ImageSource("-", content)]


def _images_in(folder: str, leave_out: Path | None) -> list[str]:
    """Image files of a folder and the folders in it, in the order of their paths; hidden ones are passed over."""
    files = []
    seen = set() if leave_out is None else {os.path.realpath(leave_out)}
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        files += [os.path.join(place, name) for name in images if not name.startswith(".")]
    return sorted(files)


def _download(url: str) -> bytes:
    try:
        written = quote(url, safe="%/:=&?~#+!$,;'@()*[]")  # spaces and letters with accents, as browsers do
        with urlopen(Request(written, headers={"User-Agent": "dino-detr"}), timeout=_URL_TIMEOUT) as response:
            return response.read()
    except (URLError, HTTPException, ValueError, TimeoutError) as error:
        raise OSError(f"cannot be fetched ({getattr(error, 'reason', error)})") from error
