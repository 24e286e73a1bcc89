"""The way of a checkpoint to an export folder, which is written only if its numbers are the detector's."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

from ..configuration_dino_detr import DinoDetrConfig
from ..data import class_names, load_detection_dataset
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..outputs import claim_folder, fill_folder, write_json
from .batches import make_batches, some_images
from .graph import DetectorGraph
from .measuring import Measurement, measure
from .options import ExportOptions
from .quantization import quantize
from .runtime import FACTS, ExportedDetector, is_export, runner_options
from .tracing import trace
from .verification import Batch, ExportFailed, Verification, find_worst_stage, verify

VERIFIED_IMAGES, CALIBRATION_IMAGES = 9, 64
# The faster in each runtime, but ONNX also goes to targets that have no GridSample.
DEFAULT_SAMPLING = {"torch": "plain", "onnx": "gather", "openvino": "plain"}


def export_detector(
    source: str | Path,
    output: str | Path,
    options: ExportOptions,
    dataset: str | None = None,
    split: str = "val",
    train_split: str = "train",
    max_images: int = 200,
    max_ap_drop: float = 0.01,
) -> tuple[Verification, Measurement | None]:
    """
    Export a checkpoint, and compare the file with PyTorch before it gets its name.

    The folder then has the graph, `config.json`, the processor and `verification.json`.

    Args:
        source: checkpoint folder or Hub id.
        output: folder to write to.
        dataset: to verify with and measure AP on, see `load_detection_dataset`. None: the built-in digits, and no AP.
        split, train_split: of the dataset, to measure on and to find the ranges of int8 on.
        max_images: to measure AP on.
        max_ap_drop: the largest loss of AP at which the export is kept.

    Returns:
        How the graph in float32 compares with PyTorch; and, of a dataset, what was measured.

    Raises:
        ExportFailed: if the numbers are not the detector's, or AP drops too far. Nothing is left then.
        FileExistsError: if `output` is not an empty folder.
        FileNotFoundError: if there is no such checkpoint.
        ImportError: if something has to be installed.
        ValueError: for options that cannot be, a checkpoint of something else, or a dataset of other classes.
    """
    options.check()
    if options.quantize and dataset is None:
        raise ValueError(f"--quantize {options.quantize} needs --dataset, to measure AP on before and after")
    claim_folder(output)
    detector, processor = _load(source, options)
    graph = DetectorGraph(detector, processor, options.with_preprocessing, options.with_postprocessing).eval()
    rows = load_detection_dataset(dataset or "digits", split if dataset else "val")
    if dataset:
        _check_classes(detector, source, rows, dataset)
    its_processor = copy.deepcopy(processor)  # the export's
    if options.with_preprocessing:
        its_processor.do_rescale = its_processor.do_normalize = False
    images = some_images(rows, VERIFIED_IMAGES)
    batches = make_batches(images, its_processor, options)
    with fill_folder(output) as folder:
        detector.set_deformable_sampling(options.sampling or DEFAULT_SAMPLING[options.format])
        exported = trace(graph, options)
        its_processor.save_pretrained(folder)
        facts: dict[str, Any] = asdict(options) | {"quantize": None}
        _save(exported, folder, facts)
        verification = verify(graph, ExportedDetector(folder).run, batches)
        if not verification.is_good:
            raise ExportFailed(_explain(graph, options, batches[0], verification))
        facts |= {"quantize": options.quantize, "verification": verification.to_dict()}
        if options.quantize:
            train_images = some_images(load_detection_dataset(str(dataset), train_split), CALIBRATION_IMAGES)
            calibration = make_batches(train_images, its_processor, options, counts=(1,), scales=(1.0,))
            _save(quantize(exported, graph, options, calibration), folder, facts)
        measurement = None
        if dataset:
            detector.set_deformable_sampling("auto")
            measured_rows = rows.select(range(min(max_images, len(rows))))
            image = make_batches(images[:1], its_processor, options)[0]
            measurement = measure(graph, processor, ExportedDetector(folder), its_processor, measured_rows, image)
            _check_ap(measurement, options, max_ap_drop)
            name = Path(dataset).name if Path(dataset).exists() else dataset  # no path of this machine
            facts["measurement"] = {"dataset": name, "split": split, **measurement.to_dict()}
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
    backbone: Any = config.backbone_config
    if options.image_size is None and hasattr(backbone, "window_size"):
        raise ValueError(
            f"a {backbone.model_type} backbone attends in windows, which depend on the size of the "
            "image: give --image_size HEIGHT WIDTH"
        )
    detector = AutoModelForObjectDetection.from_pretrained(source, dtype=torch.float32).eval()
    processor: Any = AutoImageProcessor.from_pretrained(source)
    if options.image_size is not None:
        processor.size = {"max_height": options.image_size[0], "max_width": options.image_size[1]}
    return detector, processor


def _save(exported: Any, folder: Path, facts: dict[str, Any]) -> None:
    exported.config.auto_map = {}  # no classes of the model: its code is not in the folder
    exported.save_pretrained(folder)
    _write_facts(folder, facts)


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    (folder / FACTS).unlink(missing_ok=True)
    write_json(folder / FACTS, facts)


def _check_classes(detector: DinoDetrForObjectDetection, source: str | Path, rows: Dataset, dataset: str) -> None:
    config: Any = detector.config
    names = list(config.id2label.values())
    if names != class_names(rows):
        raise ValueError(f"{source} knows the classes {names}, but {dataset} has {class_names(rows)}")


def _check_ap(measurement: Measurement, options: ExportOptions, max_ap_drop: float) -> None:
    before, after = measurement.ap
    if before - after <= max_ap_drop:
        return
    causes = [f"with {options.quantize}"] if options.quantize else []
    if options.image_size is not None:
        causes.append("with images padded to one size, as --image_size asks")
    raise ExportFailed(
        f"{', '.join([*causes, 'AP drops'])} from {before:.4f} to {after:.4f} on {measurement.images} images, more "
        f"than --max_ap_drop {max_ap_drop:g}. Nothing was written"
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
