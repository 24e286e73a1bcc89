"""How many digits of large pictures are found in the whole picture, and in tiles of it: one checkpoint, same pictures.

python benchmarks/tiles.py runs/quickstart
"""

import sys
import time

import numpy as np
import torch
from torchvision.ops import box_iou

from dino_detr import Detector
from dino_detr.data.sources.digits import render_scene
from dino_detr.inference import Detections

SIDE, CELL = 4, 300  # scenes of a picture's side; pixels of each
PICTURES = 8


def make_picture(number: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Pixels, boxes xyxy px `[n, 4]` and digits `[n]` of 16 scenes beside one another."""
    pixels, boxes, labels = np.zeros((SIDE * CELL, SIDE * CELL, 3), dtype=np.uint8), [], []
    for cell in range(SIDE**2):
        scene, of_scene, digits = render_scene("val", number * SIDE**2 + cell)
        x, y = cell % SIDE * CELL, cell // SIDE * CELL
        pixels[y : y + scene.shape[0], x : x + scene.shape[1]] = scene
        boxes += [[x + left, y + top, x + left + width, y + top + height] for left, top, width, height in of_scene]
        labels += digits
    return pixels, torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)


def count_right(found: Detections, boxes: torch.Tensor, labels: torch.Tensor) -> int:
    """Return how many objects have a detection of their class with an IoU of 0.5 or more, each detection used once."""
    overlaps = box_iou(found.boxes, boxes) * (found.labels[:, None] == labels)
    right = 0
    for row in range(len(found)):
        best = overlaps[row].argmax()
        if overlaps[row, best] >= 0.5:
            right += 1
            overlaps[:, best] = 0
    return right


if __name__ == "__main__":
    detector = Detector(sys.argv[1])
    pictures = [make_picture(number) for number in range(PICTURES)]
    objects = sum(len(labels) for _, _, labels in pictures)
    print(f"{PICTURES} pictures of {SIDE * CELL} pixels a side, {objects} digits, scores above {detector.threshold}")
    print("| | found | of them right | recall | seconds a picture |\n|---|---|---|---|---|")
    for name, options in {
        "whole": {},
        "tiles of 600": {"tiles": 600, "overlap": 0.2},
        "tiles of 300": {"tiles": 300, "overlap": 0.3},
        "tiles of 240": {"tiles": 240, "overlap": 0.3},
    }.items():
        start, found_in_all, right = time.perf_counter(), 0, 0
        for pixels, boxes, labels in pictures:
            (found,) = detector(pixels, **options)
            found_in_all, right = found_in_all + len(found), right + count_right(found, boxes, labels)
        seconds = (time.perf_counter() - start) / PICTURES
        print(f"| {name} | {found_in_all} | {right} | {right / objects:.3f} | {seconds:.1f} |")
