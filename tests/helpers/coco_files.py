"""Three pictures with two boxes each as a COCO file, to change."""

import json

from PIL import Image

from dino_detr.data.check import check_split

BOXES = [[10.0, 10.0, 30.0, 20.0], [50.0, 20.0, 24.0, 30.0]]


def picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (96, 64), (shade * 40 % 256, 90, 60)).save(path, format="PNG")


def coco(names=("p0.png", "p1.png", "p2.png")) -> dict:
    images = [{"id": i + 1, "file_name": name, "width": 96, "height": 64} for i, name in enumerate(names)]
    annotations = [
        {"id": 2 * i + k + 1, "image_id": i + 1, "category_id": k + 1, "bbox": BOXES[k], "area": 500.0, "iscrowd": 0}
        for i in range(len(names))
        for k in (0, 1)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def write(folder, content, name="train.json", encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(json.dumps(content).encode(encoding))
    return folder / name


def findings_of(folder, split="train") -> dict[str, int]:
    return {finding.kind: finding.count for finding in check_split(str(folder), split).findings}


def examples_of(folder, kind) -> list[str]:
    findings = check_split(str(folder), "train", refuse=False).findings
    return [line for finding in findings if finding.kind == kind for line in finding.format_examples(9, str(folder))]


def annotation(id_, image_id, category_id, bbox, **fields):
    return {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": bbox, **fields}
