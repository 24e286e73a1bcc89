"""Pictures of detections."""

import colorsys
import math

import torch
from PIL import Image, ImageDraw, ImageFont

_SMALLEST = 400  # pixels of the longer side; in smaller pictures labels would hide everything


def draw_detections(image: Image.Image, detections: dict, names: dict[int, str]) -> Image.Image:
    """A copy of the image with every box, its class and its score, the best on top.

    Lines and letters grow with the picture. One whose longer side has less than 400 pixels is enlarged a whole number
    of times, for its labels to be read.

    Args:
        image: as the detector saw it, upright; of any mode, the copy is RGB.
        detections: of one image, `{"scores" [n], "labels" [n], "boxes" [n, 4] xyxy px}`: tensors, arrays or lists.
        names: of the class indices; one without a name is called by its index.
    """
    scale = math.ceil(_SMALLEST / max(image.size))
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    size = max(12, round(0.024 * math.sqrt(picture.width * picture.height)))
    font = ImageFont.load_default(size)

    found = (torch.as_tensor(detections[key]).tolist() for key in ("scores", "labels", "boxes"))
    worst_first = sorted(zip(*found), key=lambda detection: detection[0])
    for _, label, (x1, y1, x2, y2) in worst_first:
        # A box may end at the picture's width and height, one beyond its last pixel.
        columns = [min(x * scale, picture.width - 1) for x in (x1, x2)]
        rows = [min(y * scale, picture.height - 1) for y in (y1, y2)]
        draw.rectangle(list(zip(columns, rows)), outline=_color(label), width=max(2, size // 7))
    for score, label, (x, y, _, _) in worst_first:  # after the boxes, so that no line crosses a label
        _draw_label(draw, str(names.get(label, label)), f" {score:.2f}", (x * scale, y * scale), font, _color(label))
    return picture


def _draw_label(draw: ImageDraw.ImageDraw, name: str, score: str, corner: tuple, font, color: tuple) -> None:
    """Text on a plate above the corner, or below it where the picture ends; moved and shortened to stay inside."""
    picture_width, picture_height = draw.im.size
    pad = font.size // 5
    text = name + score
    while len(name) > 1 and draw.textlength(text, font) + 2 * pad > picture_width:
        name = name[:-1]
        text = name + "…" + score
    width, height = draw.textlength(text, font) + 2 * pad, font.size + 2 * pad
    x = min(max(corner[0], 0), max(picture_width - width, 0))
    y = corner[1] - height if corner[1] >= height else corner[1]
    y = min(max(y, 0), max(picture_height - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    red, green, blue = color
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"
    draw.text((x + pad, y + height / 2), text, fill=ink, font=font, anchor="lm")


def _color(label: int) -> tuple[int, int, int]:
    """A colour of its own for every class: steps of the golden ratio around the hues, in three brightnesses."""
    hue = (0.58 + label * 0.618034) % 1
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.75, 0.55)[label % 3]))
