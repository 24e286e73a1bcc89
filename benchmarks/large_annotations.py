"""Annotation files as large as Objects365's: seconds and peak memory of starting to train, the first time and again.

    python benchmarks/large_annotations.py --scales 1 4 30

Scale 1 is 57,000 images with 15 boxes each; 30 is Objects365's 1.7 million images, a JSON file of 3.5 GB. Files are
made under `--folder` and deleted. Images are links to one small file. Each measure is a process of its own.
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
import time
from importlib.metadata import version
from pathlib import Path

from PIL import Image

IMAGES, BOXES, CLASSES = 57_000, 15, 365
LINKS = 40_000  # to one file; file systems have a limit

SETTLED = 3  # seconds after which files count as finished

START = """
import json, resource, sys, time
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.check import check_split
from dino_detr.data.samples import TrainingSamples, drop_images_without_boxes
from dino_detr.data.sampling import SizeGroupedSampler

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

measured = {"libraries": peak()}
started, cpu = time.perf_counter(), time.process_time()
rows = drop_images_without_boxes(check_split(sys.argv[1], "train", images=sys.argv[2]).rows)
measured["rows"] = time.perf_counter() - started
samples = TrainingSamples(rows, build_augmentation("reference", [480, 640, 800], 1333), seed=0)
order = iter(SizeGroupedSampler(samples, 64))
samples[next(order)]
measured["first sample"] = time.perf_counter() - started
measured["cpu"] = time.process_time() - cpu
measured["peak"] = peak()
status = dict(line.split(":") for line in open("/proc/self/status"))
measured["private"] = int(status["RssAnon"].split()[0]) / 2**20
cpu = time.process_time()
for index in order:
    pass
measured["epoch"] = time.process_time() - cpu
print(json.dumps(measured))
"""


def write_folder(folder: Path, scale: int) -> None:
    draw = random.Random(0)
    count = IMAGES * scale
    (folder / "annotations").mkdir(parents=True)
    for start in range(0, count, LINKS):
        patch = folder / "train" / f"patch{start // LINKS}"
        patch.mkdir(parents=True)
        Image.new("RGB", (640, 480)).save(patch / f"{start:09}.jpg")
        for index in range(start + 1, min(start + LINKS, count)):
            os.link(patch / f"{start:09}.jpg", patch / f"{index:09}.jpg")
    with open(folder / "annotations" / "instances_train.json", "w") as file:
        file.write('{"images": [')
        for index in range(count):
            name = f"patch{index // LINKS}/{index:09}.jpg"
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


def measure(folder: Path, images: str) -> dict[str, float]:
    """Return seconds and GiB of a start, in a process of its own."""
    caches = dict.fromkeys(("HF_DATASETS_CACHE", "XDG_CACHE_HOME"), str(folder / "cache"))
    command = [sys.executable, "-c", START, str(folder / "data"), images]
    done = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def describe(folder: Path, scale: int, headers: bool) -> list[str]:
    """Return rows of the table of a scale."""
    size = (folder / "data" / "annotations" / "instances_train.json").stat().st_size / 1e9
    what = f"{scale}x: {IMAGES * scale:,} images, {IMAGES * scale * BOXES:,} boxes, {size:.2f} GB"
    starts = {"first": "none", "second": "none"} | ({"headers of the images read": "headers"} if headers else {})
    lines = []
    for start, images in starts.items():
        m = measure(folder, images)
        print(scale, start, m, flush=True)
        lines.append(
            f"| {what} | {start} | {m['first sample']:.1f} | {m['cpu']:.1f} | {m['peak']:.2f} | "
            f"{m['peak'] - m['libraries']:.2f} | {m['private']:.2f} | {m['epoch']:.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--headers", action="store_true", help="also with the headers of all images read")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files are made")
    arguments = parser.parse_args()
    lines = []
    for scale in arguments.scales:
        folder = arguments.folder / f"large_annotations_{scale}"
        try:
            write_folder(folder / "data", scale)
            time.sleep(SETTLED)
            lines += describe(folder, scale, arguments.headers)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("datasets", "pyarrow", "msgspec"))
    print(
        f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[1]:.0f}; Python "
        f"{platform.python_version()}, {versions}.\n\n| file | start | s to the first sample | of CPU | "
        "peak, GiB | above the libraries | private at the end | order of an epoch, s of CPU |"
    )
    print("\n".join([8 * "|---" + "|", *lines]))


if __name__ == "__main__":
    main()
