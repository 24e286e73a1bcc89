"""Every image becomes upright 8-bit RGB here, the same way for training and for prediction."""

import numpy as np
from PIL import Image, ImageOps


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says and make it 8-bit RGB.

    Grey, palette, CMYK and RGBA images are converted as Pillow does (transparency is dropped). Of 16-bit grey
    the upper byte is kept, where Pillow would clip everything above 255 to white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def upright_size(path: str) -> tuple[int, int]:
    """Width and height in pixels of the image that `to_rgb` makes of a file, without decoding its pixels."""
    with Image.open(path) as image:
        width, height = image.size
        turned_sideways = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8
    return (height, width) if turned_sideways else (width, height)
