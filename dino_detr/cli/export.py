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
        "--sampling", metavar="WAY", help="plain (GridSample) or gather (default: the faster in the format's runtime)"
    )
    verb.add_argument("--dataset", help="whose images to compare on, and on which to score before and after")
    verb.add_argument("--split", default="val", help="of the dataset (default: val)")


def run(options: argparse.Namespace) -> None:
    from ..data import load_detection_dataset
    from ..export import export_detector

    rows = load_detection_dataset(options.dataset or "digits", options.split if options.dataset else "val")
    images = [rows[index]["image"] for index in range(min(9, len(rows)))]
    verification = export_detector(
        options.checkpoint, options.output, options.format, images, options.image_size,
        options.with_preprocessing, options.with_postprocessing, options.sampling,
    )  # fmt: skip
    print(f"{options.checkpoint} -> {options.output}")
    print(verification)
