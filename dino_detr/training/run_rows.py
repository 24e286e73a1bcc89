"""The rows that a run trains and evaluates on, checked."""

from collections import defaultdict
from pathlib import Path

from datasets import Dataset
from transformers.utils import logging

from ..data import class_names, list_splits
from ..data.check import Report, check_sources, summarise
from ..data.findings import KEPT_EXAMPLES
from ..data.joining import describe_join, find_pitfalls, join_rows
from ..data.samples import count_objects, drop_images_without_boxes
from ..data.sources.splits import how_to_share, share_splits, split_part
from ..runs.names import DATA_REPORT
from .options import DinoDetrTrainingArguments

logger = logging.get_logger(__name__)


def read_rows(options: DinoDetrTrainingArguments) -> tuple[Dataset, Dataset]:
    """
    Return the rows to train on, each with a box, and those to evaluate on. What was found in them is written down.

    Raises:
        FileNotFoundError, ValueError: for data that cannot be trained with.
    """
    _set_aside(options)
    splits = options.train_split, options.eval_split
    for source in options.sources:
        if Path(source).is_file() and splits[0] != splits[1] and not all(split_part(split)[1] for split in splits):
            raise ValueError(
                f"{source} is one split, to train on or to evaluate on: put files of both, {splits[0]}.json and "
                f"{splits[1]}.json, into a folder and give that as dataset. {how_to_share(list_splits(source)[0])}"
            )
    reports = _check(options)
    to_train = {name: drop_images_without_boxes(each[0].rows) for name, each in reports.items()}
    to_evaluate = {name: each[-1].rows for name, each in reports.items()}
    for source, rows in zip(options.sources, to_train.values()):
        if not len(rows):
            raise ValueError(f"{source}: no image of {options.train_split} has a box to learn from")
    if options.overfit_images is None:
        _compare_classes(options, to_train, to_evaluate)
    train_rows, eval_rows = join_rows(to_train), join_rows(to_evaluate)
    if options.overfit_images is not None:
        train_rows = eval_rows = _first_images(train_rows, options.overfit_images, options)
    return train_rows, eval_rows


def _compare_classes(options: DinoDetrTrainingArguments, train: dict[str, Dataset], val: dict[str, Dataset]) -> None:
    for source, train_rows, val_rows in zip(options.sources, train.values(), val.values()):
        if class_names(train_rows) != class_names(val_rows):
            raise ValueError(
                f"{source}: the classes of {options.train_split} {class_names(train_rows)} are not those of "
                f"{options.eval_split} {class_names(val_rows)}"
            )


def warn_of_crowded_images(split: str, rows: Dataset, num_queries: int) -> None:
    """Warn of images that have more objects than the detector has queries."""
    counts = count_objects(rows)
    crowded = int((counts > num_queries).sum())
    if crowded:
        fullest = int(counts.argmax())
        logger.warning(
            f"{split}: {crowded} of {len(counts)} images have more objects than num_queries={num_queries}, image "
            f"{rows[fullest]['image_id']} the most, {counts[fullest]}: what is beyond is never found. To find all: "
            f"--num_queries {counts[fullest]}"
        )


def _set_aside(options: DinoDetrTrainingArguments) -> None:
    """Part the split to train on, if `val_share` asks for it, into one to train and one to evaluate on."""
    if options.val_share is None or options.overfit_images is not None:
        return
    split, part = split_part(options.train_split)
    if part:
        raise ValueError(f"val_share takes a share of a whole split, and train_split={options.train_split} is a part")
    with options.main_process_first(local=False, desc="looking at the splits"):  # the others find it in the cache
        of_sources = [list_splits(source) for source in options.sources]
    available = of_sources[0]
    if len(available) == 1 and split != available[0] and of_sources.count(available) == len(of_sources):
        whose = ", ".join(options.sources)
        logger.warning(f"{whose}: {options.val_share:.0%} of its only split, {available[0]}, are set aside")
        split = available[0]
    options.train_split, options.eval_split = share_splits(split, options.val_share)
    options.recipe |= {"train_split": options.train_split, "eval_split": options.eval_split}
    options.recipe.pop("val_share", None)  # it is in both now


def _check(options: DinoDetrTrainingArguments) -> dict[str, list[Report]]:
    """
    Check the training split and, if it differs, the evaluation split. Log the findings and write them down.

    Returns:
        By the name of each source, the reports on these splits.
    """
    splits, by_source = list(dict.fromkeys((options.train_split, options.eval_split))), defaultdict(list)
    with options.main_process_first(local=False, desc="checking the data"):  # the others find it in the cache
        for name, report in check_sources(options.sources, splits, images=options.check_images):
            by_source[name].append(report)
    reports = [report for each in by_source.values() for report in each]
    summary = summarise(reports)
    parts = {name: each[0].rows for name, each in by_source.items()}
    joined = [describe_join(parts), *find_pitfalls(parts)] if len(parts) > 1 else []
    if options.process_index == 0:
        for report in reports:
            if report.findings:
                logger.warning(report.format(examples=0))
        (logger.warning if any(report.findings for report in reports) else logger.info)(summary)
        for sentence in joined:
            logger.warning(sentence)
        text = "\n\n".join([*(report.format(examples=KEPT_EXAMPLES) for report in reports), *joined, summary])
        (options.run_folder / DATA_REPORT).write_text(text + "\n", encoding="utf-8")
    if options.strict and any(report.defects for report in reports):
        raise ValueError(f"strict: {summary}; {options.run_folder / DATA_REPORT} names them")
    return by_source


def _first_images(rows: Dataset, count: int, options: DinoDetrTrainingArguments) -> Dataset:
    if count > len(rows):
        raise ValueError(
            f"overfit_images={count}, but {options.train_split} of {', '.join(options.sources)} has {len(rows)} images "
            "with boxes"
        )
    return rows.select(range(count))
