"""Pillow images of every mode made upright 8-bit RGB, the same way for checking, training and prediction."""

import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Metadata that say again how the pixels lay, or that transformers would paint white (a palette's transparency).
_OUTDATED = ("transparency", "exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
# Tags of TIFF that state a range: the greatest value and the least.
_GREATEST, _LEAST = (341, 281), (340, 280)
_BITS_PER_SAMPLE = 258


class ValueRange(NamedTuple):
    """The values that become black and white, and why they are a guess; "" if they are known."""

    low: float
    high: float
    doubt: str = ""


def upright_rgb(image: Image.Image) -> Image.Image:
    """
    Turn an image as its EXIF orientation says and make it 8-bit RGB, the same way for training and prediction.

    Grey, palette, CMYK and RGBA images are converted as Pillow does (transparency is dropped). Grey of more than 8 bits
    is scaled from the range of `find_value_range` to 0..255, where Pillow would clip everything above 255 to white. Of
    16 bits that is the upper byte. EXIF that cannot be read turns nothing.

    Raises:
        What Pillow's readers raise of a damaged file.
    """
    image.load()
    turn = _TURNS.get(read_orientation(image))
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bits(np.asarray(image), find_value_range(image)))
    image = image.convert("RGB")
    if turn is not None:
        image = image.transpose(turn)
    for name in _OUTDATED:
        image.info.pop(name, None)
    return image


def read_orientation(image: Image.Image) -> int:
    """
    Return the EXIF orientation, 1 (upright) to 8; 1 where there is none that can be read.

    Pillow keeps what it has read before an error, so the second try may know more.
    """
    for _ in range(2):
        try:
            orientation = image.getexif().get(Base.Orientation, 1)
        except Exception:  # its readers raise whatever comes
            continue
        return int(orientation) if orientation in _TURNS else 1
    return 1


def has_damaged_exif(image: Image.Image) -> bool:
    """Whether Pillow fails in reading the EXIF of an image, or in turning the image by it as it does itself."""
    exif, content = Image.Exif(), image.info.get("exif")
    try:
        if image.getexif().get(Base.Orientation, 1) in _TURNS:
            image.getexif().tobytes()
        if content:  # again: of JPEG files, the first failure was passed over on opening them
            exif.load(content)
    except Exception:
        return True
    return False


def find_value_range(image: Image.Image) -> ValueRange:
    """
    Return the range of the values of a grey image of more than 8 bits (modes I, I;16 and F).

    Known ranges are the one that a TIFF states, 0..65535 of integers that use it, and 0..1 of floats within it. Else
    it is guessed from the values: 0..255 or 0..4095 where integers are within it, 0..255 for floats within it, and
    otherwise from the least to the greatest value.
    """
    values = np.asarray(image)
    finite = values
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
    if not finite.size:
        return ValueRange(0, 1, "it has no finite value")
    low, high = finite.min().item(), finite.max().item()
    stated = _stated_range(image, low, high)
    if stated is not None:
        return stated
    if values.dtype.kind == "f":
        return _range_of_floats(low, high, all_finite=finite.size == values.size)
    return _range_of_integers(low, high)


def _stated_range(image: Image.Image, low: float, high: float) -> ValueRange | None:
    """Return the range that the file states, unless its values contradict it."""
    if image.format == "PPM":
        return ValueRange(0, 65535)  # Pillow's reader scales to it
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    whole = image.mode.startswith("I")
    bits = _number(tags, (_BITS_PER_SAMPLE,))
    if whole and bits is not None and 8 < bits < 16 and low >= 0 and high < 2**bits:
        return ValueRange(0, 2 ** int(bits) - 1)
    greatest, least = _number(tags, _GREATEST), _number(tags, _LEAST)
    if greatest is None or (whole and (greatest + 1) not in [2**power for power in range(8, 33)]):
        return None  # of integers, others are the greatest value met, which is not the same for each image
    least = 0 if least is None or whole else least
    return ValueRange(least, greatest) if least <= low and high <= greatest and least < greatest else None


def _number(tags: Any, names: tuple[int, ...]) -> float | None:
    for name in names:
        value = tags.get(name)
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, (int, float)) and math.isfinite(value):
            return value
    return None


def _range_of_integers(low: int, high: int) -> ValueRange:
    if low >= 0 and (high == 0 or 4096 <= high < 65536):
        return ValueRange(0, 65535)
    if low >= 0 and high < 4096:
        return ValueRange(0, 255 if high < 256 else 4095, f"integers of {low} to {high}")
    return ValueRange(low, high, f"integers of {low} to {high}")


def _range_of_floats(low: float, high: float, all_finite: bool) -> ValueRange:
    seen = f"floats of {low:g} to {high:g}" + ("" if all_finite else ", and some that are not finite")
    if low >= -0.05 and high <= 1.05:  # resampling overshoots
        return ValueRange(0, 1, "" if all_finite and low >= 0 and high <= 1 else seen)
    if low >= 0 and 16 <= high <= 255:
        return ValueRange(0, 255, seen)
    return ValueRange(low, high, seen)


def _to_8_bits(values: np.ndarray, span: ValueRange) -> np.ndarray:
    if values.dtype.kind == "f":
        width = max(span.high - span.low, np.finfo(np.float32).tiny)
        shares = (np.nan_to_num(values.astype(np.float64), nan=span.low) - span.low) / width
        return (shares.clip(0, 1) * 255).round().astype(np.uint8)
    steps = int(span.high) - int(span.low) + 1
    if span.low == 0 and steps & (steps - 1) == 0:  # a power of 2: no need for 8 bytes a pixel
        return (values >> max(steps.bit_length() - 9, 0)).clip(0, 255).astype(np.uint8)
    return ((values.astype(np.int64) - int(span.low)) * 256 // steps).clip(0, 255).astype(np.uint8)
