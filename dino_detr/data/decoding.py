"""An image file becomes upright RGB pixels: one way for checking, training, evaluation and prediction.

Whatever is wrong with a file comes out as an OSError, and `kind_of_fault` says which kind of finding that is.
"""

import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers.utils import logging

from ..upright import find_value_range, has_damaged_exif, read_orientation, upright_rgb

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # torchvision 0.29 announces that it will go
    ImageReadMode = decode_jpeg = None

logger = logging.get_logger(__name__)

PIXEL_LIMIT = "DINO_DETR_MAX_IMAGE_PIXELS"  # environment variable: the largest images that are read

_DARK = 15  # of 255: what is left of 12 bits where the upper 8 of 16 are taken
_LONGEST = 80  # times the other side; then 1333 pixels, the recipes' longest, leave less than a patch
_WIDTH, _LENGTH = 256, 257  # tags of TIFF


def silence_pillow() -> None:
    """Between its limit and the double of it, Pillow only warns; such images are read."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


silence_pillow()


class ImageTooLarge(OSError):
    """An image has more pixels than Pillow reads of a file that it does not trust."""


def decode_rgb(file: dict) -> Tensor:
    """
    Return the pixels of `decode_image`, sooner.

    Upright JPEG files in RGB or grey are decoded by torchvision, to the same values as by Pillow; all others by Pillow.

    Args:
        file: `{"path", "bytes"}`, as `datasets.Image(decode=False)` gives it; the path counts where bytes are None.

    Returns:
        uint8 `[3, h, w]`, channels last in memory, as torchvision resizes it fastest.

    Raises:
        OSError: if it is not an image, or not a whole one.
    """
    content = read_file(file)
    with _open(content) as image:
        if decode_jpeg and _is_plain_jpeg(image) and read_orientation(image) == 1:
            with suppress(RuntimeError):  # of a damaged file: Pillow says what it always says of it
                data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                return decode_jpeg(data, ImageReadMode.RGB)  # pyright: ignore[reportReturnType, reportOptionalMemberAccess]
        return pil_to_tensor(upright_rgb(image))


def decode_image(file: dict) -> Image.Image:
    """
    Return the upright RGB image of a file, by Pillow.

    Args and errors are those of `decode_rgb`.
    """
    with _open(read_file(file)) as image:
        return upright_rgb(image)


def inspect_image(content: bytes) -> tuple[tuple[int, int], list[tuple[str, str]]]:
    """
    Decode an image as far as it takes to know that `decode_rgb` can.

    Returns:
        Its upright width and height in pixels, and what is to be said of it: kinds of findings, each with a text.

    Raises:
        OSError: as `decode_rgb`.
    """
    with _open(content) as image:
        size, in_16_bits = image.size, ";16" in str(getattr(image, "tile", ""))
        drafted = _is_plain_jpeg(image)
        if drafted:  # JPEG data are read to their end at an eighth of the size too, in half of the time
            image.draft("L", (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
        damaged, orientation = has_damaged_exif(image), read_orientation(image)
        remarks = []
        if damaged:
            remarks.append(("damaged_exif", f"orientation {orientation} is taken"))
        if image.mode.startswith(("I", "F")):
            low, high, doubt = find_value_range(image)
            if doubt:
                remarks.append(("unknown_range", f"{doubt}; {low:g} to {high:g} is taken as black to white"))
        pixels = upright_rgb(image)
        extrema: Any = pixels.getextrema()  # (least, greatest) of each band
        brightest = max(greatest for _, greatest in extrema)
        if brightest <= _DARK and in_16_bits and not image.mode.startswith("I"):
            remarks.append(("unknown_range", f"16-bit colours whose upper 8 bits are {brightest} at most"))
        elif brightest <= _DARK:
            remarks.append(("dark_image", f"nothing is brighter than {brightest} of 255"))
        if not drafted:
            size = pixels.size
        elif orientation >= 5:
            size = size[1], size[0]
    if max(size) > _LONGEST * min(size):
        remarks.append(("elongated_image", f"{size[0]} x {size[1]}"))
    return size, remarks


def read_upright_size(file) -> tuple[int, int]:
    """
    Return width and height in pixels of an image turned as its EXIF orientation says, without decoding its pixels.

    Args:
        file: a path or a file object.

    Raises:
        OSError: if it is not an image.
    """
    with _open(file) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):  # some versions of Pillow give the size turned already
            width, height = image.tag_v2[_WIDTH], image.tag_v2[_LENGTH]
        return (height, width) if read_orientation(image) >= 5 else (width, height)


def read_file(file: dict) -> bytes:
    """Return the bytes of an undecoded image (`path`, `bytes`), from its file where bytes are None."""
    with _as_os_errors():
        return Path(file["path"]).read_bytes() if file["bytes"] is None else file["bytes"]


def kind_of_fault(error: OSError) -> str:
    """Return the kind of finding that an error of this module is."""
    if isinstance(error, ImageTooLarge):
        return "image_too_large"
    if isinstance(error, UnidentifiedImageError):
        return "not_an_image"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "missing_file"
    if error.errno is not None or re.search("not available|memory", str(error)):  # Pillow's, of codecs and its own
        return "unreadable_file"
    return "truncated_file"


def describe_fault(error: OSError, size: int | None = None) -> str:
    """Return what to say of such an error beside the file's name; `size` is the file's, in bytes."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows" if size is None else f"not an image ({size:,} bytes)"
    return error.strerror or str(error)


@contextmanager
def _open(source) -> Iterator[Image.Image]:
    """Open a path, a file object or the bytes of an image; errors within come out as an OSError."""
    with _as_os_errors():
        _apply_pixel_limit()
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            yield image


@contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(_say_too_large(error)) from error
    except Exception as error:  # Pillow's readers raise whatever comes
        raise OSError(f"damaged: {error or type(error).__name__}") from error


def _say_too_large(error: Exception) -> str:
    numbers = [int(number) for number in re.findall(r"\d+", str(error))]
    if len(numbers) != 2:  # another Pillow's words
        return str(error)
    pixels, limit = numbers
    return (
        f"{pixels:,} pixels are more than the {limit:,} that are read: cut it into tiles or, if you trust the file, "
        f"set {PIXEL_LIMIT}={pixels}"
    )


def _apply_pixel_limit() -> None:
    """Let Pillow read images as large as the environment variable says; Pillow refuses those above twice its number."""
    limit = os.environ.get(PIXEL_LIMIT)
    if not limit:
        return
    if limit.isdecimal() and int(limit):
        Image.MAX_IMAGE_PIXELS = -(-int(limit) // 2)
    else:
        logger.warning_once(f"{PIXEL_LIMIT}={limit!r} is no number of pixels; Pillow's own limit stays")


def _is_plain_jpeg(image: Image.Image) -> bool:
    return image.format == "JPEG" and image.mode in ("RGB", "L")
