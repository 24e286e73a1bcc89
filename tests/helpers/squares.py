"""Squares of two colours, one of them rare, as a COCO folder."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([[230, 60, 40], [40, 60, 230]])


def write_squares(folder: Path, split: str, classes: list[list[int]], seed: int) -> None:
    """
    Write images of 64 x 64 pixels with squares in different quarters.

    Args:
        classes: of each image the classes of its squares, 0 ("common") or 1 ("rare").
    """
    generator = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir()
    images, annotations = [], []
    for image_id, of_image in enumerate(classes, 1):
        pixels = generator.integers(90, 130, (64, 64, 3), dtype=np.uint8)
        for label, quarter in zip(of_image, generator.permutation(4)):
            width, height = generator.integers(16, 26, 2)
            x = quarter % 2 * 32 + generator.integers(1, 31 - width)
            y = quarter // 2 * 32 + generator.integers(1, 31 - height)
            pixels[y : y + height, x : x + width] = COLORS[label] + generator.integers(-10, 10, 3)
            box = [int(value) for value in (x, y, width, height)]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "bbox": box}
            )
        Image.fromarray(pixels).save(folder / split / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 64, "height": 64})
    categories = [{"id": 1, "name": "common"}, {"id": 2, "name": "rare"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
