"""From JPEG files to batches on one core, in images per second: ours, and what one would otherwise use.

    python benchmarks/data_loading.py --output benchmarks/RESULTS.md

needs `albumentations` (`pip install albumentations`), with which transformers' example augments. The photographs are
those of scikit-learn, cut to COCO's usual sizes. All ways take turns, round after round; the medians are shown.
"""

import argparse
import io
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import albumentations as A
import cv2
import numpy as np
import sklearn.datasets
import torch
from datasets import Dataset
from PIL import Image
from torchvision import tv_tensors
from torchvision.io import decode_jpeg
from torchvision.transforms.v2 import functional as F
from transformers import DetrImageProcessor

from dino_detr import DinoDetrImageProcessor
from dino_detr.data import decoding, load_detection_dataset
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.samples import TrainingSamples, collate
from dino_detr.training.options import COCO_SIZES

HEADING = "## Data loading"
PHOTOGRAPHS = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
FILE_SIZES = [(640, 480), (480, 640), (640, 427), (500, 375)]  # width, height
BATCH = 16


def write_coco_folder(folder: Path, count: int) -> None:
    """Cuttings of the photographs, of quality 90, with seven boxes each."""
    draw = random.Random(0)
    (folder / "annotations").mkdir()
    (folder / "train").mkdir()
    images, annotations = [], []
    for index in range(count):
        width, height = FILE_SIZES[index % len(FILE_SIZES)]
        photograph = Image.open(PHOTOGRAPHS[index % len(PHOTOGRAPHS)])
        scale = draw.uniform(0.75, 1)
        tile = np.asarray(photograph.resize([round(scale * side) for side in photograph.size], Image.LANCZOS))
        tiles = np.concatenate([tile, tile[:, ::-1]], axis=1)
        tiles = np.concatenate([tiles, tiles[::-1]], axis=0)
        top, left = draw.randrange(tiles.shape[0] - height), draw.randrange(tiles.shape[1] - width)
        name = f"{index:04}.jpg"
        Image.fromarray(tiles[top : top + height, left : left + width]).save(folder / "train" / name, quality=90)
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        for category in range(7):
            w, h = draw.uniform(0.1, 0.6) * width, draw.uniform(0.1, 0.6) * height
            box = [draw.uniform(0, width - w), draw.uniform(0, height - h), w, h]
            fields = {"id": len(annotations), "image_id": index, "category_id": category, "iscrowd": 0}
            annotations.append({**fields, "bbox": box, "area": w * h})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": category, "name": str(category)} for category in range(7)]
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))


def example_pipeline(rows: Dataset, at_our_sizes: bool) -> Callable[[list[int]], dict]:
    """
    transformers' examples/pytorch/object-detection/run_object_detection.py, from row to batch.

    Its augmentation by albumentations, DETR's processor on torchvision (its `use_fast`), its collation. As it comes,
    images are fitted into 600 x 600 pixels and padded to that; at our sizes, each batch has one of COCO_SIZES for its
    shortest edges and is padded to its largest image.
    """
    processor = DetrImageProcessor(
        size={"max_height": 600, "max_width": 600}, do_pad=True, pad_size={"height": 600, "width": 600}
    )
    transform = A.Compose(
        [
            A.Compose(
                [A.SmallestMaxSize(max_size=600, p=1.0), A.RandomSizedBBoxSafeCrop(height=600, width=600, p=1.0)], p=0.2
            ),
            A.OneOf(
                [
                    A.Blur(blur_limit=7, p=0.5),
                    A.MotionBlur(blur_limit=7, p=0.5),
                    A.Defocus(radius=(1, 5), alias_blur=(0.1, 0.25), p=0.1),
                ],
                p=0.1,
            ),
            A.Perspective(p=0.1),
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(p=0.5),
            A.HueSaturationValue(p=0.1),
        ],
        bbox_params=A.BboxParams(format="coco", label_fields=["category"], clip=True, min_area=25),
    )

    def transform_batch(examples: dict) -> dict:
        images, annotations = [], []
        for image_id, image, objects in zip(examples["image_id"], examples["image"], examples["objects"]):
            pixels = np.array(image.convert("RGB"))
            output = transform(image=pixels, bboxes=objects["bbox"], category=objects["category"])
            images.append(output["image"])
            fields = zip(output["category"], objects["area"], output["bboxes"])
            found = [
                {"image_id": image_id, "category_id": category, "iscrowd": 0, "area": area, "bbox": list(box)}
                for category, area, box in fields
            ]
            annotations.append({"image_id": image_id, "annotations": found})
        ours = {"size": {"shortest_edge": random.choice(COCO_SIZES), "longest_edge": 1333}, "pad_size": None}
        return processor(images, annotations, return_tensors="pt", **(ours if at_our_sizes else {}))

    transformed = rows.with_transform(transform_batch)

    def make_batch(indices: list[int]) -> dict:
        samples = transformed.__getitems__(indices)  # as a DataLoader asks
        return {
            "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
            "pixel_mask": torch.stack([sample["pixel_mask"] for sample in samples]),
            "labels": [sample["labels"] for sample in samples],
        }

    return make_batch


def our_pipeline(rows: Dataset, by_pillow: bool, in_worker: str | None) -> Callable[[list[int]], dict]:
    """Ours, or with JPEGs decoded by Pillow, or padded and normalised before the device by one of two processors."""
    samples = TrainingSamples(rows, build_augmentation("reference", COCO_SIZES, 1333), seed=0)
    processor = DinoDetrImageProcessor() if in_worker == "ours" else DetrImageProcessor()

    def make_batch(indices: list[int]) -> dict:
        decoding.decode_jpeg = None if by_pillow else decode_jpeg
        batch = [samples[index] for index in indices]
        if in_worker is None:
            return collate(batch)
        images, annotations = ([sample[name] for sample in batch] for name in ("image", "annotation"))
        return processor(images, annotations, do_resize=False, return_tensors="pt")

    return make_batch


def pillow_pipeline(rows: Dataset) -> Callable[[list[int]], dict]:
    """Our augmentation on Pillow's images, made tensors at the end."""
    augmentation = build_augmentation("reference", COCO_SIZES, 1333)

    def make_batch(indices: list[int]) -> dict:
        samples = []
        for index in indices:
            row = rows[index]
            torch.manual_seed(hash((0, 0, index)) % 2**63)  # what TrainingSamples draw
            corners = torch.tensor(row["objects"]["bbox"])
            corners[:, 2:] += corners[:, :2]
            boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=row["image"].size[::-1])
            image, _ = augmentation(row["image"].convert("RGB"), boxes)
            annotation = {"image_id": row["image_id"], "annotations": []}
            samples.append(
                {"image": F.pil_to_tensor(image), "annotation": annotation, "noise_seed": 0, "unreadable": []}
            )
        return collate(samples)

    return make_batch


def compare_pipelines(rows: Dataset, rounds: int) -> list[str]:
    ways = {
        "transformers' example as it comes (600 x 600)": example_pipeline(rows, at_our_sizes=False),
        "transformers' example at our sizes": example_pipeline(rows, at_our_sizes=True),
        "**ours**": our_pipeline(rows, by_pillow=False, in_worker=None),
        "ours, but JPEGs decoded by Pillow": our_pipeline(rows, by_pillow=True, in_worker=None),
        "ours, but decoded, cropped and resized by Pillow": pillow_pipeline(rows),
        "ours, but normalised in the worker": our_pipeline(rows, by_pillow=False, in_worker="ours"),
        "ours, but with Pillow and transformers' normalising and padding": our_pipeline(rows, True, "transformers"),
    }
    seconds = {name: [] for name in ways}
    pixels = {name: [] for name in ways}
    sizes = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, make_batch in ways.items():
            for start in range(0, len(rows), BATCH):
                started = time.perf_counter()
                batch = make_batch(list(range(start, start + BATCH)))
                seconds[name].append(time.perf_counter() - started)
                tensors = [batch[key] for key in ("images", "pixel_values", "pixel_mask") if key in batch]
                sizes[name].append(sum(tensor.nbytes for tensor in tensors) / BATCH / 2**20)
                mask = batch.get("pixel_mask")
                counts = mask.sum((1, 2)) if mask is not None else [label["size"].prod() for label in batch["labels"]]
                pixels[name] += [int(count) / 1e6 for count in counts]
    # the median of the rounds, each over the same images
    per_image = {
        name: np.median(np.reshape(times, (rounds + 1, -1))[1:].sum(1)) / len(rows) for name, times in seconds.items()
    }
    as_it_comes, at_our_sizes = list(per_image.values())[:2]
    lines = [
        "| from files to a batch of 16 | images / s | to the example's | to the example's at our sizes | pixels of an "
        "image | MiB of an image in its batch |",
        "|---|---|---|---|---|---|",
    ]
    for name, duration in per_image.items():
        ratios = f"{as_it_comes / duration:.2f} | {at_our_sizes / duration:.2f}"
        means = f"{np.mean(pixels[name]):.2f} M | {np.mean(sizes[name]):.1f}"
        lines.append(f"| {name} | {1 / duration:.0f} | {ratios} | {means} |")
    return lines


def compare_steps(folder: Path, rounds: int) -> list[str]:
    """Single steps, with the mean difference of their pixels from Pillow's, in levels of 255."""
    files = sorted((folder / "train").iterdir())[:BATCH]
    data = [path.read_bytes() for path in files]
    plain = [Image.open(path).convert("RGB") for path in files]
    last = [F.pil_to_tensor(image) for image in plain]
    first = [image.contiguous() for image in last]
    sizes = {
        edge: [[round(side * edge / min(image.size)) for side in image.size[::-1]] for image in plain]
        for edge in (320, 480, 800)
    }
    big = io.BytesIO()
    Image.open(PHOTOGRAPHS[0]).resize((4000, 3000), Image.LANCZOS).save(big, "JPEG", quality=90)

    def tensors(images):
        return [F.pil_to_tensor(image) for image in images]

    def shrink(draft: bool) -> list[torch.Tensor]:
        image = Image.open(big)
        if draft:
            image.draft("RGB", (1066, 800))  # decoded at the least eighth that is as large
        return [F.pil_to_tensor(image.convert("RGB").resize((1066, 800), Image.BILINEAR))]

    def shrink_by_torchvision() -> list[torch.Tensor]:
        image = decode_jpeg(torch.frombuffer(bytearray(big.getvalue()), dtype=torch.uint8))
        return [F.resize(image, [800, 1066], antialias=True)]

    def shrink_both_ways() -> list[torch.Tensor]:
        image = Image.open(big)
        image.draft("RGB", (1066, 800))
        return [F.resize(F.pil_to_tensor(image.convert("RGB")), [800, 1066], antialias=True)]

    def by_pillow(edge: int, **options):
        return [image.resize(size[::-1], Image.BILINEAR, **options) for image, size in zip(plain, sizes[edge])]

    def by_torch(images: list[torch.Tensor], edge: int) -> list[torch.Tensor]:
        return [F.resize(image, size, antialias=True) for image, size in zip(images, sizes[edge])]

    groups = {
        "decode": {
            "Pillow": lambda: tensors(Image.open(io.BytesIO(content)).convert("RGB") for content in data),
            "torchvision": lambda: [
                decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8)) for content in data
            ],
        },
        "decode 4000 x 3000, resize to 1066 x 800": {
            "Pillow": lambda: shrink(draft=False),
            "Pillow, reduced-size decoding": lambda: shrink(draft=True),
            "torchvision": shrink_by_torchvision,
            "Pillow, reduced-size decoding; resized by torchvision": shrink_both_ways,
        },
    }
    for edge in sizes:
        groups[f"resize to {edge}"] = {
            "Pillow": lambda edge=edge: tensors(by_pillow(edge)),
            "Pillow, reducing_gap=2": lambda edge=edge: tensors(by_pillow(edge, reducing_gap=2.0)),
            "torchvision, uint8, channels last": lambda edge=edge: by_torch(last, edge),
            "torchvision, uint8, channels first": lambda edge=edge: by_torch(first, edge),
            "torchvision, float32": lambda edge=edge: by_torch([image.float() for image in first], edge),
        }
    lines = ["| step | way | ms / image | mean difference from Pillow's, levels |", "|---|---|---|---|"]
    for step, ways in groups.items():
        times = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                count = len(way())
                times[name].append((time.perf_counter() - started) / count * 1000)
        expected = ways["Pillow"]()
        for name, way in ways.items():
            differences = [(a.float() - b.float()).abs().mean().item() for a, b in zip(way(), expected)]
            lines.append(f"| {step} | {name} | {statistics.median(times[name]):.2f} | {np.mean(differences):.3f} |")
    return lines


def processor_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]} ({torch.backends.cpu.get_cpu_capability()}), {len(names)} cores, one used"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="a multiple of 16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="a Markdown file, whose section on data loading is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_coco_folder(folder, arguments.images)
        mean_size = statistics.mean(path.stat().st_size for path in (folder / "train").iterdir()) / 1000
        rows = load_detection_dataset(name, "train")
        tables = [*compare_pipelines(rows, arguments.rounds), "", *compare_steps(folder, arguments.rounds)]
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow", "transformers", "albumentations")
    )
    lines = [
        HEADING,
        "",
        f"`python benchmarks/data_loading.py --images {arguments.images} --rounds {arguments.rounds}`: "
        f"{processor_name()}, load average {os.getloadavg()[0]:.0f}; "
        f"Python {platform.python_version()}, {versions}. JPEG files of 640 x 480, 480 x 640, "
        f"640 x 427 and 500 x 375 pixels, {mean_size:.0f} kB on average; ways in turns, medians of "
        f"{arguments.rounds} rounds, after one. Our sizes are the reference's: shortest edges of 480 to 800.",
        "",
        *tables,
    ]
    section = "\n".join(lines) + "\n"
    print(section)
    if arguments.output is not None:
        write_section(arguments.output, section)


def write_section(path: Path, section: str) -> None:
    """In place of the one with the same heading, or at the end."""
    text = path.read_text() if path.exists() else "# Results\n"
    before, heading, after = text.partition(HEADING + "\n")
    others = after.partition("\n## ")
    rest = "\n## " + others[2] if heading and others[1] else ""
    path.write_text(before.rstrip("\n") + "\n\n" + section + rest)


if __name__ == "__main__":
    main()
