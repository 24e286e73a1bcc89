"""`dino-detr check-data`: what is wrong with a data set."""

import argparse
import sys
from collections import defaultdict

from ..outputs import claim_files
from .common import checked_rows


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("check-data", help="what is wrong with a data set, by file name, and what is done about it")
    verb.set_defaults(run=run)
    verb.add_argument("sources", metavar="SOURCE", nargs="+", help="as --dataset of training: a COCO folder, say")
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
    from ..data.balance import describe_balance
    from ..data.check import check_sources, summarise
    from ..data.joining import describe_join, find_pitfalls, join_rows

    reports, by_split = [], defaultdict(dict)
    more = {"num_queries": DinoDetrConfig().num_queries, "refuse": False, "images": options.images}
    for name, report in check_sources(options.sources, options.split, **more):
        print(report.format(), describe_balance(report.rows), "", sep="\n")
        reports.append(report)
        by_split[report.split][name] = report.rows
    for split, parts in by_split.items():
        if 1 < len(parts) == len(options.sources):  # what training can join
            print(f"{split}: {describe_join(parts)}", *find_pitfalls(parts), sep="\n  ")
            print(describe_balance(join_rows(parts)), "", sep="\n")
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
    rows = drop_images_without_boxes(checked_rows(options.sources, split))
    if not len(rows):
        raise ValueError(f"{', '.join(options.sources)}: no image of {split} has a box to show")
    augmentation, seed = build_augmentation("reference", COCO_SIZES, 1333), 42
    if options.recipe:
        on_any_machine = ["--use_cpu", "true", "--bf16", "false", "--fp16", "false"]
        recipe = parse_options([options.recipe, *on_any_machine])
        augmentation, seed = augmentation_of(recipe), recipe.seed
    samples = TrainingSamples(rows, augmentation, seed)
    draw_samples(samples, dict(enumerate(class_names(rows))), options.show).save(options.output)
    print(f"{min(options.show, len(rows))} samples of {split} -> {options.output}")
