"""The way of a checkpoint to an export folder, which is written only if its numbers are the detector's."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

from ..configuration_dino_detr import DinoDetrConfig
from ..data import load_detection_dataset
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..outputs import claim_folder, fill_folder, write_json
from .batches import first_images, make_batches
from .graph import DetectorGraph
from .measuring import Measurement, measure
from .options import ExportOptions
from .quantization import quantize
from .runtime import FACTS, ExportedDetector, is_export, runner_options
from .tracing import trace
from .verification import Batch, ExportFailed, Verification, find_worst_stage, verify

VERIFIED_IMAGES, CALIBRATION_IMAGES = 9, 64
# The faster in each runtime; ONNX goes to targets that have no GridSample, and its own runtime is as fast without.
_SAMPLING = {"torch": "plain", "onnx": "gather", "openvino": "plain"}


def export_detector(
    source: str | Path,
    output: str | Path,
    options: ExportOptions,
    rows: Dataset | None = None,
    calibration_rows: Dataset | None = None,
    max_images: int = 200,
    max_ap_drop: float = 0.01,
) -> tuple[Verification, Measurement | None]:
    """
    Export a checkpoint, and compare the file with PyTorch before it gets its name.

    The folder then has the graph, `config.json`, the processor and `verification.json`.

    Args:
        source: checkpoint folder or Hub id.
        output: folder to write to.
        rows: images and boxes to verify with and to measure AP on. None: the built-in digits, and no AP.
        calibration_rows: images that the ranges of int8 are found with, of the training split.
        max_images: of `rows`, to measure AP on.
        max_ap_drop: the largest loss of AP at which the export is kept.

    Returns:
        How the graph in float32 compares with PyTorch; and, of `rows`, what was measured.

    Raises:
        ExportFailed: if the numbers are not the detector's, or AP drops too far. Nothing is left then.
        FileExistsError: if `output` is not an empty folder.
        FileNotFoundError: if there is no such checkpoint.
        MissingRuntime: if something has to be installed.
        ValueError: for options that cannot be, or a checkpoint of something else.
    """
    options.check()
    if options.quantize and rows is None:
        raise ValueError(f"quantize {options.quantize} needs a dataset, on which AP before and after is measured")
    if options.quantize == "int8" and calibration_rows is None:
        raise ValueError("quantize int8 needs training images, on which the ranges of 8 bits are found")
    claim_folder(output)
    detector, processor = _load(source, options)
    graph = DetectorGraph(detector, processor, options.with_preprocessing, options.with_postprocessing).eval()
    its_processor = copy.deepcopy(processor)  # the export's
    if options.with_preprocessing:
        its_processor.do_rescale = its_processor.do_normalize = False
    images = first_images(load_detection_dataset("digits", "val") if rows is None else rows, VERIFIED_IMAGES)
    batches = make_batches(images, its_processor, options)
    with fill_folder(output) as folder:
        detector.set_deformable_sampling(options.sampling or _SAMPLING[options.format])
        exported = trace(graph, options)
        its_processor.save_pretrained(folder)
        facts: dict[str, Any] = asdict(options) | {"quantize": None}
        _save(exported, folder, facts)
        verification = verify(graph, ExportedDetector(folder).run, batches)
        if not verification.is_good:
            raise ExportFailed(_explain(graph, options, batches[0], verification))
        facts |= {"quantize": options.quantize, "verification": verification.to_dict()}
        if options.quantize:
            calibration = _calibration_batches(calibration_rows, its_processor, options)
            _save(quantize(exported, graph, options, calibration), folder, facts)
        measurement = None
        if rows is not None:
            detector.set_deformable_sampling("auto")
            measured_rows = rows.select(range(min(max_images, len(rows))))
            image = make_batches(images[:1], its_processor, options)[0]
            measurement = measure(graph, processor, ExportedDetector(folder), its_processor, measured_rows, image)
            _check_ap(measurement, options, max_ap_drop)
            facts["measurement"] = measurement.to_dict()
        _write_facts(folder, facts)
    return verification, measurement


def _load(source: str | Path, options: ExportOptions) -> tuple[DinoDetrForObjectDetection, DinoDetrImageProcessor]:
    """Load a checkpoint in float32; its processor keeps images within a graph's one size."""
    source = str(source)
    if is_export(source):
        raise ValueError(f"{source} is an export: give the checkpoint that it was made from")
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"{source} is neither a checkpoint folder nor found on the Hub: {reason}") from error
    if not isinstance(config, DinoDetrConfig):
        raise ValueError(f"{source} is a checkpoint of {config.model_type}, not a detector of this package")
    if options.image_size is None and hasattr(config.backbone_config, "window_size"):
        raise ValueError(
            f"a {config.backbone_config.model_type} backbone attends in windows, which depend on the size of the "
            "image: give --image_size HEIGHT WIDTH"
        )
    detector = AutoModelForObjectDetection.from_pretrained(source, dtype=torch.float32).eval()
    processor: Any = AutoImageProcessor.from_pretrained(source)
    if options.image_size is not None:
        processor.size = {"max_height": options.image_size[0], "max_width": options.image_size[1]}
    return detector, processor


def _save(exported: Any, folder: Path, facts: dict[str, Any]) -> None:
    exported.save_pretrained(folder)
    _write_facts(folder, facts)


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    (folder / FACTS).unlink(missing_ok=True)
    write_json(folder / FACTS, facts)


def _calibration_batches(
    rows: Dataset | None, processor: DinoDetrImageProcessor, options: ExportOptions
) -> list[Batch]:
    images = [] if rows is None else first_images(rows, CALIBRATION_IMAGES)
    return make_batches(images, processor, options, counts=(1,), scales=(1.0,))


def _check_ap(measurement: Measurement, options: ExportOptions, max_ap_drop: float) -> None:
    before, after = measurement.ap
    if before - after <= max_ap_drop:
        return
    causes = [f"with {options.quantize}"] if options.quantize else []
    if options.image_size is not None:
        causes.append("with images padded to one size, as --image_size asks")
    raise ExportFailed(
        f"{', '.join([*causes, 'AP drops'])} from {before:.4f} to {after:.4f} on {measurement.images} images, more than "
        f"--max_ap_drop {max_ap_drop:g}. Nothing was written"
    )


def _explain(graph: DetectorGraph, options: ExportOptions, batch: Batch, verification: Verification) -> str:
    """Say how far off the graph is, and where it begins to be, by the outputs of its parts."""
    graph.with_stages = True
    exported = trace(graph, options)
    exported.to("cpu", **runner_options(options.format, None))
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
