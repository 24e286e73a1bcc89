"""`dino-detr export`: a checkpoint becomes a graph for another runtime."""

import argparse


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("export", help="write a graph for ONNX Runtime, OpenVINO or torch.export, and verify it")
    verb.set_defaults(run=run)
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint folder or Hub id")
    verb.add_argument("--format", required=True, metavar="FORMAT", help="torch, onnx or openvino")
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    verb.add_argument(
        "--image_size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of all images, padded (default: any)"
    )
    verb.add_argument("--with_preprocessing", action="store_true", help="take uint8 pixels, and normalise in the graph")
    verb.add_argument("--with_postprocessing", action="store_true", help="give the best boxes in pixels")
    verb.add_argument(
        "--sampling", metavar="WAY", help="plain (GridSample) or gather (default: gather in ONNX, else plain)"
    )
    verb.add_argument("--quantize", metavar="TYPE", help="int8, int8-weights, bf16 or fp16 (default: float32)")
    verb.add_argument("--dataset", help="to verify with, and to measure AP and seconds on, before and after")
    verb.add_argument("--split", default="val", help="of the dataset (default: val)")
    verb.add_argument(
        "--train_split", default="train", help="of the dataset, to find int8's ranges on (default: train)"
    )
    verb.add_argument("--max_images", type=int, default=200, help="to measure AP on (default: 200)")
    verb.add_argument("--max_ap_drop", type=float, default=0.01, help="refuse what loses more AP (default: 0.01)")


def run(options: argparse.Namespace) -> None:
    from ..export import ExportOptions, export_detector

    if options.max_images < 1:
        raise ValueError(f"--max_images {options.max_images}: at least 1")
    asked = ExportOptions(
        options.format, options.image_size and tuple(options.image_size), options.with_preprocessing,
        options.with_postprocessing, options.sampling, options.quantize,
    )  # fmt: skip
    verification, measurement = export_detector(
        options.checkpoint, options.output, asked, options.dataset, options.split, options.train_split,
        options.max_images, options.max_ap_drop,
    )  # fmt: skip
    print(f"{options.checkpoint} -> {options.output}")
    print(f"verified in float32 on {verification}")
    if measurement is not None:
        print(f"{options.quantize or 'float32'}: {measurement}")
