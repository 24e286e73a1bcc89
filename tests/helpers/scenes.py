"""Scenes of digits as a COCO folder."""

import json
from pathlib import Path

from PIL import Image

from dino_detr.data.sources.digits import render_scene


def write_scenes(folder: Path, counts: dict[str, int], one_class: bool = False) -> None:
    """
    The first scenes of each split. Category ids have gaps, image ids start at 100.

    Args:
        counts: scenes of `train` and `val`.
        one_class: every digit is of the category "digit".
    """
    categories = [{"id": 3 * digit + 2, "name": f"digit {digit}"} for digit in range(10)]
    if one_class:
        categories = [{"id": 7, "name": "digit"}]
    (folder / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        (folder / split).mkdir()
        images, annotations = [], []
        for index in range(count):
            pixels, boxes, digits = render_scene(split, index)
            name = f"{index:03}.png"
            Image.fromarray(pixels).save(folder / split / name)
            height, width = pixels.shape[:2]
            images.append({"id": index + 100, "file_name": name, "width": width, "height": height})
            for box, digit in zip(boxes, digits):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 100,
                        "category_id": categories[0 if one_class else digit]["id"],
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
