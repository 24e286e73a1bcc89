"""`dino-detr check-data`: what is wrong with a data set."""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..outputs import claim_files, claim_folder
from .common import add_device, check_batch_size, checked_rows

if TYPE_CHECKING:
    from ..data.check import Report
    from ..inference import Detector

SAMPLES, LABELS = "samples.png", "label_check"  # where to, if not said


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("check-data", help="what is wrong with a data set, by file name, and what is done about it")
    verb.set_defaults(run=run)
    verb.add_argument("sources", metavar="SOURCE", nargs="+", help="as --dataset of training: a COCO folder, say")
    verb.add_argument("--split", action="append", help="split to check (default: all; may be repeated)")
    verb.add_argument("--strict", action="store_true", help="exit with status 1 if there are defects")
    verb.add_argument("--images", choices=("pixels", "headers", "none"), default="pixels", help="what is read of each")
    verb.add_argument("--show", type=int, metavar="N", help="only draw N augmented samples of one split")
    verb.add_argument("--recipe", metavar="RECIPE", help="whose augmentation (default: the reference's)")
    verb.add_argument("--checkpoint", help="trained checkpoint or Hub id: show the labels that it doubts, worst first")
    verb.add_argument(
        "--output",
        metavar="PATH",
        help=f"file of the samples (default: {SAMPLES}), or folder of the labels (default: {LABELS})",
    )
    verb.add_argument("--batch_size", type=int, default=8, help="images of one size at a time (default: 8)")
    add_device(verb)


def run(options: argparse.Namespace) -> None:
    if options.show is not None and options.checkpoint is not None:
        raise ValueError("--show draws samples and --checkpoint looks for label errors: give one of the two")
    if options.show is not None:
        show_samples(options)
        return
    detector = None if options.checkpoint is None else load_detector(options)
    from ..configuration_dino_detr import DinoDetrConfig
    from ..data.balance import describe_balance
    from ..data.check import check_sources, summarise
    from ..data.joining import describe_join, find_pitfalls, join_rows

    reports, by_split = [], defaultdict(dict)
    more = {"num_queries": DinoDetrConfig().num_queries, "refuse": detector is not None, "images": options.images}
    for name, report in check_sources(options.sources, options.split, **more):
        print(report.format(), describe_balance(report.rows), "", sep="\n")
        reports.append(report)
        by_split[report.split][name] = report.rows
    for split, parts in by_split.items():
        if 1 < len(parts) == len(options.sources):  # what training can join
            print(f"{split}: {describe_join(parts)}", *find_pitfalls(parts), sep="\n  ")
            print(describe_balance(join_rows(parts)), "", sep="\n")
    print(summarise(reports))
    if detector is not None:
        show_suspects(options, detector, reports)
    if options.strict and any(report.defects for report in reports):
        sys.exit(1)


def load_detector(options: argparse.Namespace) -> "Detector":
    """Check place and checkpoint before the data, which take longer."""
    from ..inference import Detector

    check_batch_size(options)
    claim_folder(options.output or LABELS)
    return Detector(options.checkpoint, options.device)


def show_suspects(options: argparse.Namespace, detector: "Detector", reports: "list[Report]") -> None:
    """Write the page of labels that the detector doubts."""
    from ..inference.label_check import LABEL_CHECK_HTML, check_labels

    if detector.precision_note is not None:
        print(detector.precision_note, file=sys.stderr)
    several = len(options.sources) > 1
    splits = {f"{report.source}, {report.split}" if several else report.split: report.rows for report in reports}
    sources = ", ".join(options.sources)
    output = Path(options.output or LABELS)
    content = check_labels(detector, splits, output, sources, options.checkpoint, options.batch_size)
    boxes, images = content["boxes"], content["images"]
    print(
        f"{len(content['suspects']):,} suspects in {boxes:,} boxes of {images:,} images -> {output / LABEL_CHECK_HTML}"
    )


def show_samples(options: argparse.Namespace) -> None:
    """Draw some of the samples that training would see."""
    from ..data import class_names
    from ..data.augmentation import build_augmentation
    from ..data.samples import TrainingSamples, drop_images_without_boxes
    from ..evaluation.pictures import draw_samples
    from ..training import parse_options
    from ..training.options import COCO_SIZES
    from ..training.run import augmentation_of

    if options.show < 1:
        raise ValueError(f"--show {options.show}: at least 1 sample")
    output = options.output or SAMPLES
    claim_files(output=output)
    split = (options.split or ["train"])[0]
    rows = drop_images_without_boxes(checked_rows(options.sources, split))
    if not len(rows):
        raise ValueError(f"{', '.join(options.sources)}: no image of {split} has a box to show")
    augmentation, seed = build_augmentation("reference", COCO_SIZES, 1333), 42
    if options.recipe:
        on_any_machine = ["--use_cpu", "true", "--bf16", "false", "--fp16", "false"]
        recipe = parse_options([options.recipe, *on_any_machine])
        augmentation, seed = augmentation_of(recipe), recipe.seed
    samples = TrainingSamples(rows, augmentation, seed)
    draw_samples(samples, dict(enumerate(class_names(rows))), options.show).save(output)
    print(f"{min(options.show, len(rows))} samples of {split} -> {output}")
