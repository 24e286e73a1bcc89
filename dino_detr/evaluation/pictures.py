"""Pictures of detections, and of the samples that a detector is trained on."""

import colorsys
import math
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import to_pil_image

_SMALLEST = 400  # pixels of the longer side; in smaller pictures labels would hide everything
_LARGEST_SAMPLE = 480  # pixels of the longer side
_LARGEST_PAIR = 640  # pixels of the longer side, of a picture beside its truth
_GAP = 8  # pixels between a picture and its truth


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
    font: Any = ImageFont.load_default(size)  # one that scales, as this is how it is asked for

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


def draw_samples(samples: Any, names: dict[int, str], count: int) -> Image.Image:
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
        boxes = torch.tensor([entry["bbox"] for entry in annotations]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = {"labels": [entry["category_id"] for entry in annotations], "boxes": boxes}
        tiles.append(draw_detections(*_shrink(image, found, _LARGEST_SAMPLE), names))
    return make_grid(tiles)


def draw_truth_and_detections(
    image: Image.Image, truth: dict, detections: dict, names: dict[int, str], threshold: float
) -> Image.Image:
    """
    Draw what is annotated beside what was found, each under a line that says how much it is.

    Where no detection passes the threshold, the line names the best there is.

    Args:
        image: upright; a large one is made smaller.
        truth: of one image, `{"labels" [n], "boxes" [n, 4] xyxy px}`.
        detections: of the same, `{"scores" [n], "labels" [n], "boxes" [n, 4] xyxy px}`, of all scores.
        names: of the class indices.
        threshold: only detections above it are drawn.
    """
    scores = torch.as_tensor(detections["scores"])
    keep = scores > threshold
    kept = {name: torch.as_tensor(detections[name])[keep] for name in ("scores", "labels", "boxes")}
    found = f"found: {int(keep.sum())} above {threshold:.3g}"
    if not keep.any() and len(scores):
        best = int(scores.argmax())
        label = int(torch.as_tensor(detections["labels"])[best])
        found = f"found: nothing above {threshold:.3g}, the best: {names.get(label, label)} {scores[best]:.2g}"
    count = len(truth["labels"])
    headings = (f"annotated: {count} object{'' if count == 1 else 's'}", found)
    halves = [draw_detections(*_shrink(image, boxes, _LARGEST_PAIR), names) for boxes in (truth, kept)]
    return make_grid([_write_above(half, text) for half, text in zip(halves, headings)], columns=2, gap=_GAP)


def make_grid(tiles: list[Image.Image], columns: int = 4, gap: int = 0) -> Image.Image:
    """Put pictures of any sizes into rows of `columns` on white, `gap` pixels apart."""
    columns = min(columns, len(tiles))
    width, height = (max(tile.size[side] for tile in tiles) + gap for side in (0, 1))
    rows = -(-len(tiles) // columns)
    grid = Image.new("RGB", (columns * width - gap, rows * height - gap), "white")
    for index, tile in enumerate(tiles):
        grid.paste(tile, (index % columns * width, index // columns * height))
    return grid


def _shrink(image: Image.Image, found: dict, largest: int) -> tuple[Image.Image, dict]:
    """Return the image with its longer side at most `largest` pixels, and its boxes in the new pixels."""
    scale = min(1, largest / max(image.size))
    image = image.resize([max(1, round(side * scale)) for side in image.size], reducing_gap=2)
    return image, found | {"boxes": torch.as_tensor(found["boxes"]).reshape(-1, 4) * scale}


def _write_above(picture: Image.Image, text: str) -> Image.Image:
    font = ImageFont.load_default(16)
    while len(text) > 1 and font.getlength(text) > picture.width:
        text = text[:-2] + "…"
    higher = Image.new("RGB", (picture.width, picture.height + 24), "white")
    higher.paste(picture, (0, 24))
    ImageDraw.Draw(higher).text((0, 12), text, fill="black", font=font, anchor="lm")
    return higher


def _draw_label(
    draw: ImageDraw.ImageDraw,
    name: str,
    score: str,
    corner: tuple[float, float],
    font: ImageFont.FreeTypeFont,
    color: tuple,
) -> None:
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
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.75, 0.55)[label % 3])
    return round(255 * red), round(255 * green), round(255 * blue)
