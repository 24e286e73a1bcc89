"""`dino-detr predict`: pictures with boxes, `detections.json`, and COCO results."""

import argparse
import math

from .common import add_device, add_post_processing, check_batch_size, post_processing

FORMATS = ("coco", "yolo", "voc", "csv", "label-studio")


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("predict", help="detect in images and videos: drawn, as JSON, as COCO results")
    verb.set_defaults(run=run)
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint folder or Hub id")
    verb.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="files, folders, patterns, URLs, videos; `-`: an image or names on stdin",
    )
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    verb.add_argument("--overwrite", action="store_true", help="replace what an earlier predict wrote there")
    verb.add_argument(
        "--threshold",
        metavar="SCORE",
        help="least score of a detection, or of classes: cat=0.3,dog=0.6 (default: the run's best, of its report; "
        "else 0.5)",
    )
    verb.add_argument("--batch_size", type=int, default=8, help="images at a time, of one size (default: 8)")
    verb.add_argument(
        "--tiles", type=int, metavar="SIZE", help="detect in tiles of SIZE pixels too, for small objects (default: no)"
    )
    verb.add_argument("--overlap", type=float, default=0.2, help="of neighbouring tiles, of their side (default: 0.2)")
    verb.add_argument(
        "--format", choices=FORMATS, action="append", default=[], help="write labels in this form too; may be repeated"
    )
    verb.add_argument("--track", action="store_true", help="follow the objects of a video from frame to frame")
    add_device(verb)
    add_post_processing(verb)


def run(options: argparse.Namespace) -> None:
    from ..inference import predict
    from ..inference.tiles import check_tiles

    check_batch_size(options)
    check_tiles(options.tiles, options.overlap)
    predict(
        options.checkpoint, options.images, options.output, read_threshold(options.threshold), options.batch_size,
        options.device, options.overwrite, options.track, tiles=options.tiles, overlap=options.overlap,
        formats=dict.fromkeys(options.format), **post_processing(options),
    )  # fmt: skip


def read_threshold(text: str | None) -> float | dict[str, float] | None:
    """
    Return the score of `0.3`, or the scores of `cat=0.3,dog=0.6`.

    Raises:
        ValueError: if it is neither.
    """
    if text is None:
        return None
    by_name = {}
    for part in text.split(","):
        name, _, score = part.rpartition("=")
        try:
            by_name[name] = float(score)
        except ValueError:
            by_name[name] = math.nan
        if not 0 <= by_name[name] <= 1:
            raise ValueError(f"--threshold {text}: a score, from 0 to 1, or one of each of some classes: cat=0.3")
    return by_name[""] if list(by_name) == [""] else by_name
