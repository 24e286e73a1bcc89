"""`dino-detr predict`: pictures with boxes, `detections.json`, and COCO results."""

import argparse

from .common import add_device, add_post_processing, check_batch_size, post_processing


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("predict", help="detect in images: pictures with boxes, detections.json, COCO results")
    verb.set_defaults(run=run)
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint folder or Hub id")
    verb.add_argument(
        "images", metavar="IMAGE", nargs="+", help="files, folders, patterns, URLs; `-`: an image or names on stdin"
    )
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    verb.add_argument("--overwrite", action="store_true", help="replace what an earlier predict wrote there")
    verb.add_argument(
        "--threshold", type=float, help="least score of a detection (default: the run's best, of its report; else 0.5)"
    )
    verb.add_argument("--batch_size", type=int, default=8, help="images at a time, of one size (default: 8)")
    add_device(verb)
    add_post_processing(verb)


def run(options: argparse.Namespace) -> None:
    from ..inference import predict

    check_batch_size(options)
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold {options.threshold}: a score, from 0 to 1")
    predict(
        options.checkpoint, options.images, options.output, options.threshold, options.batch_size, options.device,
        options.overwrite, **post_processing(options),
    )  # fmt: skip
