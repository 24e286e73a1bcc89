"""Exports with numbers of fewer bits than float32."""

import copy
import re
from importlib import import_module
from typing import Any

import torch

from .graph import DetectorGraph
from .options import ExportOptions
from .tracing import trace
from .verification import Batch

_INT8_PARTS = ("backbone", "pyramid", "neck", "encoder")  # queries and boxes of the rest are too fine for 8 bits
_OF_INT8_PARTS = re.compile(rf"\b({'|'.join(_INT8_PARTS)})\.")
_SAMPLED = re.compile(
    r"\bencoder\.layers\.\d+\.self_attn\.output_proj\b"
)  # OpenVINO takes its 8 bits into the sampling
_PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Convolution", "ConvolutionBackpropData"}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def quantize(exported: Any, graph: DetectorGraph, options: ExportOptions, calibration: list[Batch]) -> Any:
    """
    Return an export in the numbers of `options.quantize`.

    `int8` has weights and activations of the backbone and encoder in 8 bits, where they meet in a product;
    `int8-weights` all large weights. `bf16` and `fp16` are those of the weights; OpenVINO computes in bf16.

    Args:
        exported: transformers' `ExportedModel` of the graph in float32.
        calibration: batches whose activations tell the ranges of 8 bits.
    """
    if options.quantize in _DTYPES:
        return _quantize_to_floats(exported, graph, options)
    import nncf

    exporters: Any = import_module("transformers.exporters")  # lazily, which a type checker cannot follow
    if options.quantize == "int8":
        operators = _int8_operators(exported.program, graph, options.format)
        others = [name for name, chosen in operators.items() if not chosen]
        config: Any = exporters.NNCFQuantizationConfig(
            ignored_scope=nncf.IgnoredScope(names=others, validate=False), subset_size=len(calibration)
        )
    else:
        config = exporters.NNCFWeightCompressionConfig(mode=nncf.CompressWeightsMode.INT8_SYM)
    quantizer = {"onnx": exporters.NNCFOnnxQuantizer, "openvino": exporters.NNCFOpenVINOQuantizer}[options.format]
    program = quantizer(config, calibration).quantize(exported.program, calibration[0], exported.export_format)
    exported.components["model"].program = program
    return exported


def _quantize_to_floats(exported: Any, graph: DetectorGraph, options: ExportOptions) -> Any:
    if options.format == "torch":
        graph = copy.deepcopy(graph)
        graph.detector.to(_DTYPES[options.quantize])  # pyright: ignore[reportArgumentType]
        return trace(graph, options)
    if options.quantize == "fp16":
        return trace(graph, options, halve_weights=True)
    exported.program.set_rt_info("bf16", ["runtime_options", "INFERENCE_PRECISION_HINT"])
    return exported


def _int8_operators(program: Any, graph: DetectorGraph, format: str) -> dict[str, bool]:
    """Return of each operator's name whether it multiplies by a weight of the backbone or encoder."""
    if format == "onnx":
        return {node.name: _is_of_int8_parts_onnx(node) for node in program.graph}
    weights = {
        parameter.detach().numpy().tobytes()
        for name, parameter in graph.detector.model.named_parameters()
        if parameter.dim() > 1 and _is_of_int8_parts(name)
    }
    chosen = {}
    for node in program.get_ordered_ops():
        if node.get_type_name() in ("Constant", "Parameter", "Result"):
            continue
        factor: Any = node.input_value(1).get_node() if node.get_type_name() in _PRODUCTS else node
        is_constant = factor.get_type_name() == "Constant"
        chosen[node.get_friendly_name()] = is_constant and factor.data.tobytes() in weights
    return chosen


def _is_of_int8_parts(name: str) -> bool:
    """Tell by its name in `DinoDetrModel` whether a weight is to be in 8 bits."""
    return _OF_INT8_PARTS.match(name) is not None and _SAMPLED.search(name) is None


def _is_of_int8_parts_onnx(node: Any) -> bool:
    # "...: class/detector.model.encoder.layers.0.ffn.fc1: torch.nn.modules.linear.Linear/linear_16: ..."
    modules = re.findall(r"\bdetector\.model\.([\w.]+)", node.metadata_props.get("namespace", ""))
    if node.op_type not in _PRODUCTS or not modules or not _is_of_int8_parts(modules[-1]):
        return False
    factor = node.inputs[1]
    maker = factor.producer()
    if maker is not None and maker.op_type == "Transpose":  # of a large weight
        factor = maker.inputs[0]
    return factor.const_value is not None
