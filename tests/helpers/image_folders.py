"""Image files of every kind, alone and in a COCO folder."""

import io
import json
from pathlib import Path

import sklearn.datasets
from PIL import Image

from dino_detr.data.check import check_split

PHOTOGRAPHS = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))  # 640 x 427


def encode(image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, form, **options)
    return file.getvalue()


def write_coco(folder, **files: bytes) -> str:
    """A COCO folder of images of 64 x 48 pixels, with one box each."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / "train" / name.replace("_", ".")).write_bytes(content)
    images = [
        {"id": number, "file_name": name.replace("_", "."), "width": 64, "height": 48}
        for number, name in enumerate(files)
    ]
    boxes = [
        {"id": image["id"] + 1, "image_id": image["id"], "category_id": 1, "bbox": [5, 5, 20, 20]} for image in images
    ]
    (folder / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return str(folder)


def defects_of(source: str) -> dict[str, int]:
    return {finding.kind: finding.count for finding in check_split(source, "train").defects}
