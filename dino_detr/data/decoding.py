"""An image file becomes upright RGB pixels."""

from contextlib import suppress
from io import BytesIO

import torch
from PIL import Image
from PIL.ExifTags import Base
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from ..image_processing_dino_detr import upright_rgb

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # torchvision 0.29 announces that it will go
    decode_jpeg = None


def decode_rgb(file: dict) -> Tensor:
    """
    The pixels of `upright_rgb`, sooner.

    Upright JPEG files in RGB or grey are decoded by torchvision, to the same values as by Pillow; all others by Pillow.

    Args:
        file: `{"path", "bytes"}`, as `datasets.Image(decode=False)` gives it; the path counts where bytes are None.

    Returns:
        uint8 `[3, h, w]`, channels last in memory, as torchvision resizes it fastest.

    Raises:
        OSError: if it is not an image, or not a whole one.
    """
    with (
        open(file["path"], "rb") if file["bytes"] is None else BytesIO(file["bytes"]) as source,
        Image.open(source) as image,  # reads no further than the header
    ):
        plain = image.format == "JPEG" and image.mode in ("RGB", "L")
        if decode_jpeg and plain and image.getexif().get(Base.Orientation, 1) == 1:
            source.seek(0)
            with suppress(RuntimeError):  # of a damaged file: Pillow says what it always says of it
                return decode_jpeg(torch.frombuffer(bytearray(source.read()), dtype=torch.uint8), ImageReadMode.RGB)
        return pil_to_tensor(upright_rgb(image))
