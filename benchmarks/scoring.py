"""Seconds and memory of COCO's figures, by each scorer: python benchmarks/scoring.py

5,000 images with 300 detections each over 80 classes, seven objects an image on average; half of the detections are
near an object and mostly of its class. Batches of 8, as an evaluation gives them. Each scorer in a process of its own.
"""

import argparse
import multiprocessing
import platform
import resource
import time
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from dino_detr.evaluation import CocoDetectionMetric
from dino_detr.evaluation.coco.score import SCORERS

BATCH = 8


def generate(images: int, detections: int, classes: int) -> Iterator[tuple[list[dict], list[dict]]]:
    """The metric's input, batch by batch."""
    rng = np.random.default_rng(0)

    def boxes(count):
        return np.concatenate([rng.uniform(0, 400, (count, 2)), np.exp(rng.uniform(1.5, 5.5, (count, 2)))], axis=1)

    for first in range(0, images, BATCH):
        predictions, references = [], []
        for image_id in range(first, min(first + BATCH, images)):
            wanted = boxes(rng.integers(1, 14))
            labels = rng.integers(0, classes, len(wanted))
            nearest = rng.integers(0, len(wanted), detections)
            found, found_labels = boxes(detections), rng.integers(0, classes, detections)
            near = rng.random(detections) < 0.5
            moved = wanted[nearest] + rng.normal(0, 0.1, (detections, 4)) * wanted[nearest][:, [2, 3, 2, 3]]
            found[near] = moved[near].clip(1)
            same = near & (rng.random(detections) < 0.8)
            found_labels[same] = labels[nearest[same]]
            found[:, 2:] += found[:, :2]
            areas, crowds = wanted[:, 2] * wanted[:, 3] * 0.6, rng.random(len(wanted)) < 0.02
            wanted[:, 2:] += wanted[:, :2]
            scores = rng.random(detections)
            predictions.append({"image_id": image_id, "boxes": found, "labels": found_labels, "scores": scores})
            references.append(
                {"image_id": image_id, "boxes": wanted, "labels": labels, "area": areas, "iscrowd": crowds}
            )
        yield predictions, references


def measure(scorer: str, sizes: tuple[int, int, int]) -> tuple[dict, float, float, float, float]:
    """The figures; seconds to gather and to compute; MiB of the process before computing, and at its peak."""
    metric = CocoDetectionMetric(scorer=scorer)
    gathering = 0.0
    for predictions, references in generate(*sizes):
        started = time.perf_counter()
        metric.add_batch(predictions=predictions, references=references)
        gathering += time.perf_counter() - started
    before, started = _peak(), time.perf_counter()
    figures = metric.compute()
    return figures, gathering, time.perf_counter() - started, before, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=300, help="of each image")
    parser.add_argument("--classes", type=int, default=80)
    options = parser.parse_args()
    sizes = options.images, options.detections, options.classes
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pycocotools"))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {libraries}")
    print("{:,} images, {} detections each, {} classes\n".format(*sizes))
    print("| scorer | gathering, s | scoring, s | MiB before scoring | peak MiB | AP |")
    print("|---|---|---|---|---|---|")
    all_figures = []
    for scorer in SCORERS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures, *numbers = pool.apply(measure, (scorer, sizes))
        cells = " | ".join(format(number, form) for number, form in zip(numbers, (".1f", ".1f", ".0f", ".0f")))
        print(f"| {scorer} | {cells} | {figures['AP']:.12f} |", flush=True)
        all_figures.append(figures)
    print("\nfigures are equal" if all_figures[0] == all_figures[1] else "\nFIGURES DIFFER")


if __name__ == "__main__":
    main()
