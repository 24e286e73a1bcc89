"""`dino-detr check-data`: what is wrong with a data set."""

import argparse
import sys

from ..outputs import claim_files
from .common import checked_rows


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("check-data", help="what is wrong with a data set, by file name, and what is done about it")
    verb.set_defaults(run=run)
    verb.add_argument("source", metavar="SOURCE", help="as --dataset of training: a COCO folder, say")
    verb.add_argument("--split", action="append", help="split to check (default: all; may be repeated)")
    verb.add_argument("--strict", action="store_true", help="exit with status 1 if there are defects")
    verb.add_argument("--images", choices=("pixels", "headers", "none"), default="pixels", help="what is read of each")
    verb.add_argument("--show", type=int, metavar="N", help="only draw N augmented samples of one split")
    verb.add_argument("--output", default="samples.png", metavar="FILE.png", help="where to (default: samples.png)")
    verb.add_argument("--recipe", metavar="RECIPE", help="whose augmentation (default: the reference's)")


def run(options: argparse.Namespace) -> None:
    if options.show is not None:
        show_samples(options)
        return
    from ..configuration_dino_detr import DinoDetrConfig
    from ..data import list_splits
    from ..data.balance import describe_balance
    from ..data.check import check_split, summarise

    reports = []
    for split in options.split or list_splits(options.source):
        queries = DinoDetrConfig().num_queries
        reports.append(check_split(options.source, split, queries, reports, refuse=False, images=options.images))
        print(reports[-1].format(), describe_balance(reports[-1].rows), "", sep="\n")
    print(summarise(reports))
    if options.strict and any(report.defects for report in reports):
        sys.exit(1)


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
    claim_files(output=options.output)
    split = (options.split or ["train"])[0]
    rows = drop_images_without_boxes(checked_rows(options.source, split))
    if not len(rows):
        raise ValueError(f"{options.source}: no image of {split} has a box to show")
    augmentation, seed = build_augmentation("reference", COCO_SIZES, 1333), 42
    if options.recipe:
        on_any_machine = ["--use_cpu", "true", "--bf16", "false", "--fp16", "false"]
        recipe = parse_options([options.recipe, *on_any_machine])
        augmentation, seed = augmentation_of(recipe), recipe.seed
    samples = TrainingSamples(rows, augmentation, seed)
    draw_samples(samples, dict(enumerate(class_names(rows))), options.show).save(options.output)
    print(f"{min(options.show, len(rows))} samples of {split} -> {options.output}")
