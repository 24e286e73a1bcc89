"""A small COCO folder with everything wrong with it that a user's may have, and the same folder cleaned by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "emu"}]
FILE = "annotations/instances_{split}.json"

# (split, kind, file, annotation id)
EXPECTED = {
    ("train", "unusable_image", FILE, None),
    ("train", "repeated_image_id", "train/again.png", None),
    ("train", "missing_file", "train/missing.png", None),
    ("train", "not_an_image", "train/text.png", None),
    ("train", "truncated_file", "train/truncated.jpg", None),
    ("train", "truncated_file", "train/truncated.png", None),
    ("train", "wrong_size", "train/wrong_size.png", None),
    ("train", "unusable_category", FILE, None),
    ("train", "unknown_image_id", FILE, 10),
    ("train", "unknown_category_id", "train/boxes.png", 11),
    ("train", "malformed_box", "train/boxes.png", 12),
    ("train", "malformed_box", "train/boxes.png", 13),
    ("train", "nonfinite_box", "train/boxes.png", 14),
    ("train", "nonfinite_box", "train/boxes.png", 15),
    ("train", "negative_box", "train/boxes.png", 16),
    ("train", "zero_sized_box", "train/boxes.png", 17),
    ("train", "outside_box", "train/boxes.png", 18),
    ("train", "oversized_box", "train/boxes.png", 19),
    ("train", "crossing_box", "train/boxes.png", 20),
    ("train", "crossing_box", "train/boxes.png", 21),
    ("train", "repeated_annotation_id", "train/boxes.png", 1),
    ("train", "missing_annotation_id", "train/boxes.png", None),
    ("train", "missing_area", "train/boxes.png", 4),
    ("train", "missing_iscrowd", "train/boxes.png", 5),
    ("train", "missing_size", "train/no_size.png", None),
    ("train", "image_without_boxes", "train/empty.png", None),
    ("train", "crowded_image", "train/boxes.png", None),
    ("train", "absent_class", "emu", None),
    ("train", "unnamed_file", "train/extra.png", None),
    ("val", "zero_sized_box", "val/plain.png", 31),
    ("val", "crossing_box", "val/plain.png", 32),
    ("val", "truncated_file", "val/truncated.jpg", None),
    ("val", "same_image", "val/copy.png", None),
    ("val", "absent_class", "emu", None),
}
# (defects and remarks that leave the data as they are, and those of the cleaned folder)
LEFT = {"same_image", "image_without_boxes", "crowded_image", "absent_class"}


def write_dirty(folder: Path) -> None:
    train, val = _make_images(folder)
    content = _clean_train()
    content["images"] += [
        {"id": 1, "file_name": "again.png", "width": 96, "height": 64},
        {"file_name": "again.png", "width": 96, "height": 64},
        *({"id": id_, "file_name": name, "width": 96, "height": 64} for id_, name in BROKEN.items()),
    ]
    images = {image["file_name"]: image for image in content["images"]}
    images["wrong_size.png"].update(width=64, height=96)
    del images["no_size.png"]["width"], images["no_size.png"]["height"]
    content["categories"] = [*CATEGORIES, {"id": 3, "name": "cat again"}]

    kept = {item["id"]: item for item in content["annotations"]}
    kept[19].update(bbox=[-10, -10, 120, 100], area=12000)
    kept[20].update(bbox=[-10, 5, 30, 20], area=600)
    kept[21].update(bbox=[80, 40, 20, 30], area=300)
    kept[22].update(id=1)
    del kept[23]["id"], kept[4]["area"], kept[5]["iscrowd"]
    nothing = float("nan")
    content["annotations"] += [
        _box(10, 99, 3, [1, 1, 5, 5]),
        _box(11, 1, 4, [1, 1, 5, 5]),
        _box(12, 1, 3, [1, 1, 5]),
        _box(13, 1, 3, None),
        _box(14, 1, 3, [1, nothing, 5, 5]),
        _box(15, 1, 3, [1, 1, float("inf"), 5]),
        _box(16, 1, 3, [20, 20, -5, 5]),
        _box(17, 1, 3, [20, 20, 0, 5]),
        _box(18, 1, 3, [96.5, 20, 5, 5]),
        *(_box(40 + id_, id_, 7, [1, 1, 5, 5]) for id_ in BROKEN),  # go with their images
    ]
    for name in ("again.png", "extra.png"):
        shutil.copy(train / "boxes.png", train / name)
    (train / "text.png").write_text("not an image")
    for name in ("truncated.jpg", "truncated.png"):
        _noise(9).save(train / name)
        _cut(train / name)
    _write(folder, "train", content)

    content = _clean_val()
    content["images"].append({"id": 3, "file_name": "truncated.jpg", "width": 96, "height": 64})
    content["annotations"][0].update(bbox=[-3, 0, 23, 20], area=460)
    content["annotations"] += [_box(31, 1, 7, [5, 5, 4, 0]), _box(33, 3, 7, [5, 5, 4, 4])]
    _noise(10).save(val / "truncated.jpg")
    _cut(val / "truncated.jpg")
    _write(folder, "val", content)


def write_clean(folder: Path) -> None:
    _make_images(folder)
    _write(folder, "train", _clean_train())
    _write(folder, "val", _clean_val())


BROKEN = {50: "missing.png", 51: "text.png", 52: "truncated.jpg", 53: "truncated.png"}


def _clean_train() -> dict:
    names = ["boxes.png", "wrong_size.png", "no_size.png", "empty.png", "turned.png", "shared.png"]
    images = [{"id": id_, "file_name": name, "width": 96, "height": 64} for id_, name in enumerate(names, 1)]
    images[4].update(width=64, height=96)  # upright; its file lies on its side
    annotations = [
        _box(1, 1, 3, [10, 10, 30, 20]),
        _box(4, 1, 3, [12, 10, 30, 20]),
        _box(5, 1, 7, [14, 10, 30, 20]),
        _box(6, 1, 7, [50.5, 30, 46.2, 34.9]),  # crosses the border by less than a pixel: rounding
        _box(19, 1, 3, [0, 0, 96, 64], area=6144),
        _box(20, 1, 3, [0, 5, 20, 20], area=400),
        _box(21, 1, 7, [80, 40, 16, 24], area=192),  # half of the box is the object's
        _box(22, 1, 7, [30, 30, 10, 10]),
        _box(23, 1, 7, [40, 30, 10, 10]),
        _box(24, 2, 3, [70, 10, 20, 20]),  # within the file's size, outside of what is said of it
        _box(25, 3, 7, [10, 10, 20, 20]),
        _box(26, 5, 3, [10, 60, 20, 30]),
        _box(27, 6, 3, [10, 10, 20, 30]),
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def _clean_val() -> dict:
    names = ["plain.png", "copy.png"]
    return {
        "images": [{"id": id_, "file_name": name, "width": 96, "height": 64} for id_, name in enumerate(names, 1)],
        "annotations": [_box(32, 1, 3, [0, 0, 20, 20]), _box(34, 1, 7, [40, 20, 30, 30]), _box(35, 2, 3, [9, 9, 9, 9])],
        "categories": CATEGORIES,
    }


def _make_images(folder: Path) -> tuple[Path, Path]:
    train, val = folder / "train", folder / "val"
    for place in (train, val, folder / "annotations"):
        place.mkdir(parents=True)
    for seed, name in enumerate(["boxes.png", "wrong_size.png", "no_size.png", "empty.png", "shared.png"]):
        _noise(seed).save(train / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    _noise(6).save(train / "turned.png", exif=exif)
    _noise(7).save(val / "plain.png")
    shutil.copy(train / "shared.png", val / "copy.png")
    return train, val


def _box(id_: int, image_id: int, category_id: int, bbox, area: float | None = None) -> dict:
    if area is None:
        area = bbox[2] * bbox[3] if bbox and len(bbox) == 4 else 1
    return {
        "id": id_,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": area,
        "iscrowd": 0,
    }


def _noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8))


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])


def _write(folder: Path, split: str, content: dict) -> None:
    (folder / FILE.format(split=split)).write_text(json.dumps(content))
