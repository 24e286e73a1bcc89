"""Pictures of detections, and of the samples that a detector is trained on."""

import colorsys
import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image

_SMALLEST = 400  # pixels of the longer side; in smaller pictures labels would hide everything
_LARGEST_SAMPLE = 480  # pixels of the longer side


def draw_detections(image: Image.Image, detections: dict, names: dict[int, str]) -> Image.Image:
    """A copy of the image with every box, its class and its score, the best on top.

    Lines and letters grow with the picture. One whose longer side has less than 400 pixels is enlarged a whole number
    of times, for its labels to be read.

    Args:
        image: as the detector saw it, upright; of any mode, the copy is RGB.
        detections: of one image, `{"scores" [n], "labels" [n], "boxes" [n, 4] xyxy px}`: tensors, arrays or lists.
            Without scores, of annotated objects, none are written.
        names: of the class indices; one without a name is called by its index.
    """
    scale = math.ceil(_SMALLEST / max(image.size))
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    size = max(12, round(0.024 * math.sqrt(picture.width * picture.height)))
    font = ImageFont.load_default(size)

    labels, boxes = (torch.as_tensor(detections[key]).tolist() for key in ("labels", "boxes"))
    scores, written = [0.0] * len(labels), [""] * len(labels)
    if "scores" in detections:
        scores = torch.as_tensor(detections["scores"]).tolist()
        written = [f" {score:.2f}" for score in scores]
    worst_first = sorted(zip(scores, written, labels, boxes), key=lambda detection: detection[0])
    for _, _, label, (x1, y1, x2, y2) in worst_first:
        # A box may end at the picture's width and height, one beyond its last pixel.
        columns = [min(x * scale, picture.width - 1) for x in (x1, x2)]
        rows = [min(y * scale, picture.height - 1) for y in (y1, y2)]
        draw.rectangle(list(zip(columns, rows)), outline=_color(label), width=max(2, size // 7))
    for _, score, label, (x, y, _, _) in worst_first:  # after the boxes, so that no line crosses a label
        _draw_label(draw, str(names.get(label, label)), score, (x * scale, y * scale), font, _color(label))
    return picture


def draw_samples(samples: Dataset, names: dict[int, str], count: int) -> Image.Image:
    """A grid of up to `count` of the samples, evenly spread, as the detector would see them, with boxes and classes.

    Args:
        samples: `TrainingSamples`, of the epoch to show.
        names: of the class indices.
    """
    count = min(count, len(samples))
    tiles = []
    for position in range(count):
        sample = samples[position * len(samples) // count]
        image, annotations = to_pil_image(sample["image"]), sample["annotation"]["annotations"]
        scale = min(1, _LARGEST_SAMPLE / max(image.size))
        image = image.resize([max(1, round(side * scale)) for side in image.size], reducing_gap=2)
        boxes = torch.tensor([entry["bbox"] for entry in annotations]).reshape(-1, 4) * scale
        boxes[:, 2:] += boxes[:, :2]
        found = {"labels": [entry["category_id"] for entry in annotations], "boxes": boxes}
        tiles.append(draw_detections(image, found, names))
    return make_grid(tiles)


def make_grid(tiles: list[Image.Image], columns: int = 4) -> Image.Image:
    """Pictures of any sizes in rows of `columns`, on white."""
    columns = min(columns, len(tiles))
    width, height = (max(tile.size[side] for tile in tiles) for side in (0, 1))
    grid = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
    for index, tile in enumerate(tiles):
        grid.paste(tile, (index % columns * width, index // columns * height))
    return grid


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
