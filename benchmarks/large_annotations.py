"""Annotation files as large as Objects365's: seconds and peak memory of starting to train, the first time and again.

    python benchmarks/large_annotations.py --scales 1 4 30 --output benchmarks/RESULTS.md

Scale 1 is 57,000 images with 15 boxes each; 30 is Objects365's 1.7 million images, a JSON file of 4 GB. Files are made
under `--folder` and deleted. Images are links to one small file. Each measure is a process of its own.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from PIL import Image

HEADING = "## Large annotation files"
IMAGES, BOXES, CLASSES = 57_000, 15, 365
LINKS = 40_000  # to one file; file systems have a limit

LIBRARIES = "import dino_detr.data.check, dino_detr.data.sampling, dino_detr.data.augmentation"
START = f"""
import json, resource, sys, time
{LIBRARIES}
from dino_detr.data.check import check_split
from dino_detr.data.samples import TrainingSamples, drop_images_without_boxes
from dino_detr.data.sampling import SizeGroupedSampler
from dino_detr.data.augmentation import build_augmentation
source, images = sys.argv[1:]
started = time.perf_counter()
seconds = {{}}
def done(name):
    global started
    seconds[name] = time.perf_counter() - started
    started = time.perf_counter()
report = check_split(source, "train", images=images)
done("rows")
samples = TrainingSamples(drop_images_without_boxes(report.rows), build_augmentation("none", [640], 1333), seed=0)
done("samples")
order = iter(SizeGroupedSampler(samples, 64))
first = next(order)
done("order")
for _ in order: pass
done("epoch")
samples[first]
seconds["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
seconds["private"] = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 2**20
seconds["boxes"] = sum(len(entry.count) for entry in report.findings)  if False else 0
print(json.dumps(seconds))
"""


def write_folder(folder: Path, scale: int) -> None:
    draw = random.Random(0)
    count = IMAGES * scale
    (folder / "annotations").mkdir(parents=True)
    for start in range(0, count, LINKS):
        patch = folder / "train" / f"patch{start // LINKS}"
        patch.mkdir(parents=True)
        Image.new("RGB", (640, 480)).save(patch / f"{start:09}.png")
        for index in range(start + 1, min(start + LINKS, count)):
            os.link(patch / f"{start:09}.png", patch / f"{index:09}.png")
    with open(folder / "annotations" / "instances_train.json", "w") as file:
        file.write('{"images": [')
        for index in range(count):
            name = f"patch{index // LINKS}/{index:09}.png"
            entry = f'{{"id": {index}, "file_name": "{name}", "width": 640, "height": 480, "license": 5}}'
            file.write(f"{', ' if index else ''}{entry}")
        file.write('], "annotations": [')
        for number in range(BOXES * count):
            width, height = round(1 + 300 * draw.random(), 2), round(1 + 200 * draw.random(), 2)
            x, y = round((640 - width) * draw.random(), 2), round((480 - height) * draw.random(), 2)
            box = f"[{x}, {y}, {width}, {height}]"
            of = f'"image_id": {draw.randrange(count)}, "category_id": {1 + draw.randrange(CLASSES)}'
            entry = f'{{"id": {number + 1}, {of}, "bbox": {box}, "area": {width * height:.4f}, "iscrowd": 0}}'
            file.write(f"{', ' if number else ''}{entry}")
        categories = [{"id": number + 1, "name": f"class {number}"} for number in range(CLASSES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), int(sys.argv[2]))
