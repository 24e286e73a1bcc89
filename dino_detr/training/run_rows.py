"""The rows that a run trains and evaluates on, checked."""

from pathlib import Path

from datasets import Dataset
from transformers.utils import logging

from ..data import class_names, list_splits
from ..data.check import Report, check_split, summarise
from ..data.findings import KEPT_EXAMPLES
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
    source = str(options.dataset)
    if Path(source).is_file() and splits[0] != splits[1] and not all(split_part(split)[1] for split in splits):
        raise ValueError(
            f"{source} is one split, to train on or to evaluate on: put files of both, {splits[0]}.json and "
            f"{splits[1]}.json, into a folder and give that as dataset. {how_to_share(list_splits(source)[0])}"
        )
    reports = _check(options)
    train_rows, eval_rows = drop_images_without_boxes(reports[0].rows), reports[-1].rows
    if not len(train_rows):
        raise ValueError(f"{options.dataset}: no image of {options.train_split} has a box to learn from")
    if options.overfit_images is not None:
        train_rows = eval_rows = _first_images(train_rows, options.overfit_images, options)
    if class_names(train_rows) != class_names(eval_rows):
        raise ValueError(
            f"{options.dataset}: the classes of {options.train_split} {class_names(train_rows)} are not those of "
            f"{options.eval_split} {class_names(eval_rows)}"
        )
    return train_rows, eval_rows


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
        available = list_splits(str(options.dataset))
    if len(available) == 1 and split != available[0]:
        logger.warning(f"{options.dataset}: {options.val_share:.0%} of its only split, {available[0]}, are set aside")
        split = available[0]
    options.train_split, options.eval_split = share_splits(split, options.val_share)
    options.recipe |= {"train_split": options.train_split, "eval_split": options.eval_split}
    options.recipe.pop("val_share", None)  # it is in both now


def _check(options: DinoDetrTrainingArguments) -> list[Report]:
    """Check the training split and, if it differs, the evaluation split. Log the findings and write them down."""
    reports = []
    with options.main_process_first(local=False, desc="checking the data"):  # the others find it in the cache
        for split in dict.fromkeys((options.train_split, options.eval_split)):
            reports.append(check_split(str(options.dataset), split, other_splits=reports, images=options.check_images))
    summary = summarise(reports)
    if options.process_index == 0:
        for report in reports:
            if report.findings:
                logger.warning(report.format(examples=0))
        (logger.warning if any(report.findings for report in reports) else logger.info)(summary)
        text = "\n\n".join([report.format(examples=KEPT_EXAMPLES) for report in reports] + [summary])
        (options.run_folder / DATA_REPORT).write_text(text + "\n", encoding="utf-8")
    if options.strict and any(report.defects for report in reports):
        raise ValueError(f"strict: {summary}; {options.run_folder / DATA_REPORT} names them")
    return reports


def _first_images(rows: Dataset, count: int, options: DinoDetrTrainingArguments) -> Dataset:
    if count > len(rows):
        raise ValueError(
            f"overfit_images={count}, but {options.train_split} of {options.dataset} has {len(rows)} images with boxes"
        )
    return rows.select(range(count))
