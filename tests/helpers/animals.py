"""Three images with ants, bees and cows, as COCO files and as columns of `datasets`."""

import json

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from dino_detr.data import category_ids, class_names

NAMES = ["ant", "bee", "cow"]
SIZES = {"a.jpg": (60, 40), "b.jpg": (50, 70), "c.jpg": (64, 48)}
BOXES = {  # (class index, x, y, w, h); of class 1 there is none
    "a.jpg": [(2, 5, 4, 20.5, 10), (0, 30, 8, 25, 30)],
    "b.jpg": [],
    "c.jpg": [(0, 1, 2, 60, 44)],
}


def coco(ids=(1, 2, 3), order=(0, 1, 2), dummy=False) -> dict:
    """The annotations in COCO's form, with these category ids, the categories listed in this order."""
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(SIZES.items(), start=7)
    ]
    annotations = []
    for image in images:
        for category, x, y, w, h in BOXES[image["file_name"]]:
            annotation = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": ids[category]}
            annotations.append({**annotation, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
    categories = [{"id": ids[index], "name": NAMES[index], "supercategory": "animals"} for index in order]
    if dummy:
        categories.insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    return {"images": images, "annotations": annotations, "categories": categories}


def write_images(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        PILImage.fromarray(pixels).save(folder / name)
    return folder


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def assert_same_rows(rows: Dataset, ids=(1, 2, 3), image_ids=(7, 8, 9)):
    """As the table above says."""
    assert (class_names(rows), category_ids(rows)) == (NAMES, list(ids))
    assert list(rows["image_id"]) == list(image_ids)
    assert list(zip(rows["width"], rows["height"])) == list(SIZES.values())
    for row, (name, size) in zip(rows, SIZES.items()):
        objects = row["objects"]
        assert [(c, *box) for c, box in zip(objects["category"], objects["bbox"])] == BOXES[name]
        assert objects["area"] == [w * h for _, _, _, w, h in BOXES[name]]
        assert objects["iscrowd"] == [0] * len(BOXES[name])
        assert (row["image"].mode, row["image"].size) == ("RGB", size)
    assert [id_ for objects in rows["objects"] for id_ in objects["id"]] == [1, 2, 3]


def encoded(name: str, folder) -> dict:
    return {"bytes": (folder / name).read_bytes(), "path": name}


def columns(images, fields, as_structs=False, **more) -> dict:
    """Columns of a data set whose objects have `fields`, functions of (index of the object, its entry in BOXES)."""
    number, objects = 0, []
    for boxes in BOXES.values():
        entries = [{name: of(number + i, box) for name, of in fields.items()} for i, box in enumerate(boxes)]
        number += len(boxes)
        objects.append(entries if as_structs else {name: [entry[name] for entry in entries] for name in fields})
    return {"image": [encoded(name, images) for name in SIZES], "objects": objects, **more}


def features(values: dict, as_structs=False, **more) -> Features:
    objects = List(values) if as_structs else {name: List(feature) for name, feature in values.items()}
    return Features({"image": Image(), "objects": objects, **more})


IDS = [3, 40, 7]  # of ants, bees and cows, out of order
BOX = {"bbox": lambda _, box: list(box[1:])}
BOX_FEATURE = {"bbox": List(Value("float32"), length=4)}
