"""Inference on a CPU, ours exported and not, beside transformers' Deformable DETR: python benchmarks/inference.py

ViT-S, images of 640 x 640, one at a time, 900 queries, 80 classes, random weights. Each way is in a process of its own
with the same threads, and they take turns, so that what else the machine does meets all of them. Medians of the rounds
after the first. Exports are written to a folder (`--folder`) and kept there: int8 is calibrated on noise, for its time
alone is of interest here (`dino-detr export --quantize` measures AP). One line of JSON for each way.
"""

import argparse
import json
import os
import platform
import re
import statistics
from importlib.metadata import version
from pathlib import Path

import torch
from step import THEIRS, build_model
from transformers import exporters
from turns import seconds, serve, take_turns

from dino_detr import DinoDetrImageProcessor
from dino_detr.export.exporting import DEFAULT_SAMPLING
from dino_detr.export.graph import DetectorGraph
from dino_detr.export.options import ExportOptions
from dino_detr.export.quantization import quantize
from dino_detr.export.runtime import runner_options
from dino_detr.export.tracing import trace

OURS = {
    "ours, eager": None,
    "ours, eager, bf16 autocast": None,
    "ours, torch": ("torch", None),
    "ours, onnx": ("onnx", None),
    "ours, onnx, int8": ("onnx", "int8"),
    "ours, TensorRT": ("onnx", None),
    "ours, openvino": ("openvino", None),
    "ours, openvino, bf16": ("openvino", "bf16"),
    "ours, openvino, int8": ("openvino", "int8"),
}
OF_A_GPU = "ours, TensorRT"  # of the same graph as "ours, onnx"
# Their ONNX graph is none that ONNX Runtime loads: `sigmoid_min_1` comes from nowhere (transformers 5.24).
WAYS = [*OURS, f"{THEIRS}, eager", f"{THEIRS}, openvino"]


def inputs_of(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    height, width = options.image_size
    return {
        "pixel_values": torch.randn(1, 3, height, width),
        "pixel_mask": torch.ones(1, height, width, dtype=torch.int64),
    }


def folder_of(way: str, options: argparse.Namespace) -> Path:
    name = way.replace(", bf16", "") if "openvino" in way else way.replace("TensorRT", "onnx")  # the same file
    return Path(options.folder) / re.sub(r"\W+", "_", name)


def export(way: str, options: argparse.Namespace) -> None:
    """Write the export of a way, if it is not there."""
    folder = folder_of(way, options)
    if folder.is_dir():
        return
    if way.startswith(THEIRS):
        theirs = build_model(THEIRS, options.backbone).eval()
        exported = exporters.OpenVINOExporter().export(theirs, inputs_of(options), exporters.OpenVINOConfig())
    else:
        format, precision = OURS[way]
        asked = ExportOptions(format, tuple(options.image_size), quantize=precision)
        model = build_model("ours", options.backbone).eval()
        model.set_deformable_sampling(options.sampling or DEFAULT_SAMPLING[format])
        graph = DetectorGraph(model, DinoDetrImageProcessor()).eval()
        exported = trace(graph, asked)
        if precision == "int8":
            exported = quantize(exported, graph, asked, [inputs_of(options)] * 4)
    exported.save_pretrained(folder)


def serve_way(way: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    inputs = inputs_of(options)
    if way.endswith(("eager", "autocast")):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        model = build_model(THEIRS if way.startswith(THEIRS) else "ours", options.backbone).eval().to(device)
        context = torch.autocast(device, torch.bfloat16, enabled=way.endswith("autocast"))
    else:
        folder = folder_of(way, options)
        more = {}
        if "openvino" in way:
            more = runner_options(*OURS.get(way, ("openvino", None)))
            more["config"]["INFERENCE_NUM_THREADS"] = options.threads
        elif way == OF_A_GPU:
            more = {"providers": ["TensorrtExecutionProvider", "CUDAExecutionProvider"]}
        elif "onnx" in way:
            import onnxruntime

            more = {"session_options": onnxruntime.SessionOptions()}
            more["session_options"].intra_op_num_threads = options.threads
        model = exporters.ExportedModel.from_pretrained(
            str(folder), device="cuda" if way == OF_A_GPU else "cpu", trust_remote_code=True, **more
        )
        context = torch.no_grad()

    @torch.no_grad()
    def infer() -> None:
        with context:
            model(**inputs)

    serve({"infer": lambda: seconds(infer)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=[w for w in WAYS if w != OF_A_GPU], choices=WAYS)
    parser.add_argument("--backbone", default="vit-s")
    parser.add_argument("--image_size", type=int, nargs=2, default=[640, 640], metavar=("H", "W"))
    parser.add_argument("--sampling", choices=["plain", "gather"], help="of our exports (default: each format's)")
    parser.add_argument("--folder", default="runs/exports", help="of the exports (default: runs/exports)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", nargs=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_way(options.serve[0], options)
        return

    for way in options.ways:
        if not way.endswith(("eager", "autocast")):
            export(way, options)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    times, servers = take_turns({way: (way,) for way in options.ways}, ["infer"], options.rounds, processes=1)
    for server in servers.values():
        server.close()
    medians = {way: statistics.median(times[way, "infer"]) for way in options.ways}
    eager = medians.get("ours, eager")
    for way, median in medians.items():
        measured = times[way, "infer"]
        line = {"way": way, "seconds": round(median, 3), "spread": [round(min(measured), 3), round(max(measured), 3)]}
        if eager:
            line["of_ours_eager"] = round(median / eager, 2)
            # of the same round, for the machine's other work changes from one to the next
            ratios = [a / b for a, b in zip(measured, times["ours, eager", "infer"])]
            line["of_ours_eager_in_its_round"] = round(statistics.median(ratios), 2)
        print(json.dumps(line), flush=True)
    packages = {name: version(name) for name in ("torch", "transformers", "onnxruntime", "openvino", "nncf")}
    machine = f"CPU, {options.threads} threads"
    print(json.dumps({"machine": machine, "python": platform.python_version(), **packages}))


if __name__ == "__main__":
    main()
