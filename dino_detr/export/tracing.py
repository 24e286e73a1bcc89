"""A detector becomes a graph for another runtime, by transformers' exporters."""

from importlib import import_module
from typing import Any

import torch
from torch.export import Dim

from .graph import DetectorGraph
from .options import ExportOptions

_TRACED = (160, 192)  # height and width of the images that a graph of any size is traced with


def trace(graph: DetectorGraph, options: ExportOptions, halve_weights: bool = False) -> Any:
    """
    Return transformers' `ExportedModel` of a graph, which takes any number of images, of one size or of any.

    Args:
        halve_weights: store OpenVINO's weights as fp16.
    """
    exporters: Any = import_module("transformers.exporters")  # lazily, which a type checker cannot follow
    exporter, config = {
        "torch": (exporters.DynamoExporter, exporters.DynamoConfig),
        "onnx": (exporters.OnnxExporter, exporters.OnnxConfig),
        "openvino": (exporters.OpenVINOExporter, exporters.OpenVINOConfig),
    }[options.format]
    height, width = options.image_size or _TRACED
    pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8 if graph.with_preprocessing else torch.float32)
    inputs = {"pixel_values": pixels, "pixel_mask": torch.ones(2, height, width, dtype=torch.int64)}
    any_size = {} if options.image_size else {2: Dim.AUTO, 3: Dim.AUTO}
    shapes: dict[str, Any] = {
        "pixel_values": {0: Dim.AUTO, **any_size},
        "pixel_mask": {0: Dim.AUTO, **{axis - 1: size for axis, size in any_size.items()}},
    }
    if graph.with_postprocessing:
        inputs["target_sizes"] = torch.tensor([[height, width]] * 2)
        shapes["target_sizes"] = {0: Dim.AUTO}
    more = {"compress_to_fp16": True} if halve_weights else {}
    with torch.no_grad():
        return exporter().export(graph, inputs, config(dynamic=True, dynamic_shapes=shapes, **more))
