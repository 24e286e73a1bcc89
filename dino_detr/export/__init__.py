"""Detectors leave PyTorch: exported, and compared with PyTorch before anyone uses them."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.export import Dim
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..outputs import claim_folder, write_json
from .graph import DetectorGraph
from .runtime import FACTS, ExportedDetector, check_runtime, is_export
from .verification import Batch, ExportFailed, Verification, find_worst_stage, verify

__all__ = ["ExportFailed", "ExportedDetector", "Verification", "export_detector", "is_export"]

SMALLEST = (
    128  # pixels of an image's side: below, the coarsest maps have a single cell, which graphs take for all cases
)
# The faster in each runtime; ONNX goes to targets that have no GridSample, and its own runtime is as fast without.
_SAMPLING = {"torch": "plain", "onnx": "gather", "openvino": "plain"}
_TRACED = (160, 192)  # height and width of the images that a graph of any size is traced with


def export_detector(
    source: str | Path,
    output: str | Path,
    format: str,
    images: list[Image.Image],
    image_size: tuple[int, int] | None = None,
    with_preprocessing: bool = False,
    with_postprocessing: bool = False,
    sampling: str | None = None,
) -> Verification:
    """
    Export a checkpoint, and compare the file with PyTorch before it gets its name.

    Args:
        source: checkpoint folder or Hub id.
        output: folder to write to. It then has the graph, `config.json`, the processor and `verification.json`.
        format: one of `FORMATS`.
        images: to compare on, at least one.
        image_size: height and width of all images, padding included. None: any.
        with_preprocessing, with_postprocessing: see `DetectorGraph`.
        sampling: `plain` or `gather`, see `deformable_sampling`. None: the faster in the format's own runtime.

    Raises:
        ExportFailed: if the numbers are not the detector's. Nothing is left then.
        FileExistsError: if `output` is not an empty folder.
        ImportError: if something has to be installed.
        ValueError: for an unknown format or sampling, a size below 32 pixels, or a backbone that needs an image size.
    """
    check_runtime(format)
    _check(image_size, sampling)
    claim_folder(output)
    detector = AutoModelForObjectDetection.from_pretrained(str(source), dtype=torch.float32).eval()
    processor: Any = AutoImageProcessor.from_pretrained(str(source))
    if image_size is not None:
        processor.size = {"max_height": image_size[0], "max_width": image_size[1]}
    elif hasattr(detector.config.backbone_config, "window_size"):
        raise ValueError(
            f"a {detector.config.backbone_config.model_type} backbone attends in windows, which depend on the size of "
            "the image: give --image_size HEIGHT WIDTH"
        )
    detector.set_deformable_sampling(sampling or _SAMPLING[format])
    graph = DetectorGraph(detector, processor, with_preprocessing, with_postprocessing).eval()
    if with_preprocessing:
        processor.do_rescale = processor.do_normalize = False  # the graph does
    facts = {
        "format": format,
        "image_size": image_size and list(image_size),
        "with_preprocessing": with_preprocessing,
        "with_postprocessing": with_postprocessing,
    }
    batches = make_batches(images, processor, image_size, with_postprocessing)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary) / output.name
        _trace(graph, format, image_size).save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / FACTS, facts)
        verification = verify(graph, ExportedDetector(folder).run, batches)
        if not verification.is_good:
            graph.with_stages = True
            raise ExportFailed(_explain(graph, _trace(graph, format, image_size), batches[0], verification))
        (folder / FACTS).unlink()
        write_json(folder / FACTS, facts | {"verification": verification.to_dict()})
        if output.exists():
            output.rmdir()  # it is empty
        shutil.move(folder, output)
    return verification


def make_batches(
    images: list[Image.Image],
    processor: DinoDetrImageProcessor,
    image_size: tuple[int, int] | None,
    with_target_sizes: bool = False,
) -> list[Batch]:
    """
    Make what a graph is called with: padded batches of several images and single ones, of several sizes.

    Args:
        image_size: height and width of all batches; None: what the processor makes of the images, and smaller ones.
    """
    batches, sizes = [], iter(([1.0] if image_size else [1.0, 0.75, 0.5]) * len(images))
    start = 0
    while start < len(images):
        count = (3, 1, 2)[len(batches) % 3]
        some, scale = images[start : start + count], next(sizes)
        batches.append(_make_batch(some, processor, image_size, scale))
        if with_target_sizes:
            batches[-1]["target_sizes"] = torch.tensor([image.size[::-1] for image in some])
        start += count
    return batches


def _make_batch(
    images: list[Image.Image], processor: DinoDetrImageProcessor, image_size: tuple[int, int] | None, scale: float
) -> Batch:
    size = dict(processor.size)
    if scale < 1:
        size["shortest_edge"] = max(SMALLEST, int(size["shortest_edge"] * scale))
    inputs = processor(images, size=size, return_tensors="pt")
    pixels, mask = inputs["pixel_values"], inputs["pixel_mask"]
    if image_size is not None:
        pad = (0, image_size[1] - pixels.shape[-1], 0, image_size[0] - pixels.shape[-2])
        pixels, mask = F.pad(pixels, pad), F.pad(mask, pad)
    raw = not processor.do_normalize
    return {"pixel_values": pixels.to(torch.uint8) if raw else pixels, "pixel_mask": mask}


def _trace(graph: DetectorGraph, format: str, image_size: tuple[int, int] | None) -> Any:
    """Return transformers' `ExportedModel` of a graph: any number of images, of one size or of any."""
    from transformers import exporters

    exporter, config = {
        "torch": (exporters.DynamoExporter, exporters.DynamoConfig),
        "onnx": (exporters.OnnxExporter, exporters.OnnxConfig),
        "openvino": (exporters.OpenVINOExporter, exporters.OpenVINOConfig),
    }[format]
    height, width = image_size or _TRACED
    pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8 if graph.with_preprocessing else torch.float32)
    inputs = {"pixel_values": pixels, "pixel_mask": torch.ones(2, height, width, dtype=torch.int64)}
    any_size = {} if image_size else {2: Dim.AUTO, 3: Dim.AUTO}
    shapes: dict[str, Any] = {
        "pixel_values": {0: Dim.AUTO, **any_size},
        "pixel_mask": {0: Dim.AUTO, **{axis - 1: size for axis, size in any_size.items()}},
    }
    if graph.with_postprocessing:
        inputs["target_sizes"] = torch.tensor([[height, width]] * 2)
        shapes["target_sizes"] = {0: Dim.AUTO}
    with torch.no_grad():
        return exporter().export(graph, inputs, config(dynamic=True, dynamic_shapes=shapes))


def _explain(graph: DetectorGraph, exported: Any, batch: Batch, verification: Verification) -> str:
    """Say how far off the graph is, and where it begins to be, by the outputs of its parts."""
    with torch.no_grad():
        ours = graph(**batch)
    theirs = exported(**batch)
    stage, error = find_worst_stage({name: value for name, value in ours.items() if name in graph.stage_names}, theirs)
    return (
        f"the exported graph does not give the detector's numbers on {verification.images} images: "
        f"{verification.detections:.0%} of the best detections and {verification.queries:.0%} of the queries agree "
        f"(largest difference of a logit {verification.logits:.2g}). They part in {stage}, whose output is off by "
        f"{error:.1%} of its largest value. Nothing was written"
    )


def _check(image_size: tuple[int, int] | None, sampling: str | None) -> None:
    if image_size is not None and min(image_size) < SMALLEST:
        raise ValueError(f"image_size {image_size[0]} {image_size[1]}: at least {SMALLEST} pixels each way")
    if sampling not in (None, "plain", "gather"):
        raise ValueError(f"sampling {sampling!r} is none of plain, gather")
