"""What an export costs and gives: COCO's AP and the seconds of an image, before and after."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset

from ..evaluation.evaluate import evaluate
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..modeling_dino_detr import DinoDetrForObjectDetection
from .graph import DetectorGraph
from .runtime import ExportedDetector
from .verification import Batch

_ROUNDS = 5  # after one to warm up


@dataclass
class Measurement:
    """
    An export beside the detector that it was made from.

    Args:
        images: that AP was measured on.
        ap: COCO's AP of the detector in float32, and of the export.
        seconds: of one image, of the detector in float32 and of the export; medians in turns.
        image_size: height and width of that image.
        threads: of PyTorch; each runtime has its own default.
    """

    images: int
    ap: tuple[float, float]
    seconds: tuple[float, float]
    image_size: list[int]
    threads: int

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.image_size
        return (
            f"AP {self.ap[0]:.4f} -> {self.ap[1]:.4f} on {self.images} images; {self.seconds[0]:.3f} -> "
            f"{self.seconds[1]:.3f} s for one of {height}x{width}"
        )


def measure(
    graph: DetectorGraph,
    processor: DinoDetrImageProcessor,
    exported: ExportedDetector,
    exported_processor: DinoDetrImageProcessor,
    rows: Dataset,
    batch: Batch,
) -> Measurement:
    """
    Measure an export.

    Args:
        processor, exported_processor: of the detector and of the export, which may do less.
        batch: one image, as the graphs take it.
    """
    detector: DinoDetrForObjectDetection = graph.detector
    pairs: Any = ((detector, processor), (exported, exported_processor))
    ap = tuple(evaluate(model, its_processor, rows, batch_size=4).figures["AP"] for model, its_processor in pairs)
    taken = [], []
    for _ in range(_ROUNDS + 1):
        for run, times in zip((graph, exported.run), taken):
            times.append(_seconds(run, batch))
    before, after = (statistics.median(times[1:]) for times in taken)
    return Measurement(
        len(rows), (ap[0], ap[1]), (before, after), list(batch["pixel_values"].shape[-2:]), torch.get_num_threads()
    )


@torch.no_grad()
def _seconds(run: Callable, batch: Batch) -> float:
    started = time.perf_counter()
    run(**batch)
    return time.perf_counter() - started
