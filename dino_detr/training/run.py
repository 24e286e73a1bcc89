"""A training run from options to run folder."""

import json
import shlex
from pathlib import Path

from datasets import Dataset
from transformers import set_seed
from transformers.utils import logging

from ..data import category_ids, class_names, list_splits
from ..data.augmentation import Augmentation, build_augmentation
from ..data.check import Report, check_split, summarise
from ..data.findings import KEPT_EXAMPLES
from ..data.samples import TrainingSamples, count_objects, drop_images_without_boxes
from ..data.splits import how_to_share, share_splits, split_part
from ..evaluation.coco_results import format_figure
from ..evaluation.evaluate import Evaluation
from ..evaluation.operating_point import readable_threshold
from ..evaluation.report import write_report
from ..hub.cards import write_card
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..runs.names import BOX_AP_PNG, DATA_REPORT, DETECTIONS_PNG, FIGURES_JSON, REPORT, REPORT_HTML
from .checkpointing.lock import check_lock
from .checkpointing.output_dir import check_space, claim_output_dir, release_output_dir
from .checkpointing.preemption import Preempted
from .checks import check_run_length
from .guards.out_of_memory import explain_out_of_memory
from .options import DinoDetrTrainingArguments
from .outlook import announce
from .progress import without_bars_of_weights
from .run_folder import RunFolder, draw_sample_detections
from .run_length import settle_run_length
from .sharding import full_state_dict, unsharded_class
from .starting_point import build_model
from .trainer import DetectionTrainer

logger = logging.get_logger(__name__)

LEARNED_BY_HEART = 0.9  # AP50 on the images trained on, of which `overfit_images` asks


def prepare(options: DinoDetrTrainingArguments) -> DetectionTrainer:
    """
    Everything before the first step: data, model and trainer.

    Raises:
        FileNotFoundError, ValueError: for data, weights or options that cannot be trained with.
        OSError: if the run folder cannot be written to, has no room, or holds another run (see `claim_output_dir`).
    """
    augmentation = augmentation_of(options)
    options.resume_from_checkpoint = claim_output_dir(options)
    try:
        return _prepare(options, augmentation)
    except BaseException:
        release_output_dir(options)
        raise


def _prepare(options: DinoDetrTrainingArguments, augmentation: Augmentation) -> DetectionTrainer:
    set_seed(options.seed)
    _set_aside(options)
    splits = options.train_split, options.eval_split
    if Path(options.dataset).is_file() and splits[0] != splits[1] and not all(split_part(split)[1] for split in splits):
        raise ValueError(
            f"{options.dataset} is one split, to train on or to evaluate on: put files of both, {splits[0]}.json and "
            f"{splits[1]}.json, into a folder and give that as dataset. {how_to_share(list_splits(options.dataset)[0])}"
        )
    reports = _check(options)
    train_rows, eval_rows = drop_images_without_boxes(reports[0].rows), reports[-1].rows
    if not len(train_rows):
        raise ValueError(f"{options.dataset}: no image of {options.train_split} has a box to learn from")
    if options.overfit_images is not None:
        train_rows = eval_rows = _first_images(train_rows, options)
    if class_names(train_rows) != class_names(eval_rows):
        raise ValueError(
            f"{options.dataset}: the classes of {options.train_split} {class_names(train_rows)} are not those of "
            f"{options.eval_split} {class_names(eval_rows)}"
        )
    steps = settle_run_length(options, len(train_rows))
    check_run_length(options, steps, options.forgiven)
    model = build_model(options, class_names(train_rows), category_ids(train_rows))
    check_space(options, model)
    for split, rows in ((options.train_split, train_rows), (options.eval_split, eval_rows)):
        _warn_of_crowded_images(split, rows, model.config.num_queries)
    announce(options, model, steps, train_rows, eval_rows)
    processor = DinoDetrImageProcessor(
        size={"shortest_edge": max(options.image_sizes), "longest_edge": options.max_image_size}
    )
    return DetectionTrainer(
        model=model,
        args=options,
        processor=processor,
        train_dataset=TrainingSamples(train_rows, augmentation, options.seed),
        eval_dataset=eval_rows,
        callbacks=[RunFolder(options)],
    )


def _set_aside(options: DinoDetrTrainingArguments) -> None:
    """Part the split to train on, if `val_share` asks for it, into one to train and one to evaluate on."""
    if options.val_share is None or options.overfit_images is not None:
        return
    split, part = split_part(options.train_split)
    if part:
        raise ValueError(f"val_share takes a share of a whole split, and train_split={options.train_split} is a part")
    with options.main_process_first(local=False, desc="looking at the splits"):  # the others find it in the cache
        available = list_splits(options.dataset)
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
            reports.append(check_split(options.dataset, split, other_splits=reports))
    summary = summarise(reports)
    if options.process_index == 0:
        for report in reports:
            if report.findings:
                logger.warning(report.format(examples=0))
        (logger.warning if any(report.findings for report in reports) else logger.info)(summary)
        text = "\n\n".join([report.format(examples=KEPT_EXAMPLES) for report in reports] + [summary])
        (Path(options.output_dir) / DATA_REPORT).write_text(text + "\n", encoding="utf-8")
    if options.strict and any(report.defects for report in reports):
        raise ValueError(f"strict: {summary}; {Path(options.output_dir) / DATA_REPORT} names them")
    return reports


def augmentation_of(options: DinoDetrTrainingArguments) -> Augmentation:
    return build_augmentation(
        options.augmentation,
        options.image_sizes,
        options.max_image_size,
        options.horizontal_flip,
        options.photometric_distort,
        options.zoom_out,
        options.iou_crop,
    )


def _warn_of_crowded_images(split: str, rows: Dataset, num_queries: int) -> None:
    counts = count_objects(rows)
    crowded = int((counts > num_queries).sum())
    if crowded:
        most = int(counts.argmax())
        logger.warning(
            f"{split}: {crowded} of {len(counts)} images have more objects than num_queries={num_queries}, image "
            f"{rows[most]['image_id']} the most, {counts[most]}: what is beyond is never found. To find all: "
            f"--num_queries {counts[most]}"
        )


@explain_out_of_memory
@without_bars_of_weights()
def train(trainer: DetectionTrainer) -> dict[str, float]:
    """
    Train, evaluate, and leave the best weights and everything about the run in the run folder.

    Returns:
        The figures of the best weights on the evaluation split.

    Raises:
        OutOfMemory: if there was not enough memory, with what takes less.
        Preempted: if a signal asked to stop; the last checkpoint is of the moment it came.
        FolderLost: if another run has taken the folder meanwhile.
    """
    try:
        return _train(trainer)
    finally:
        release_output_dir(trainer.args)


def _train(trainer: DetectionTrainer) -> dict[str, float]:
    if trainer.uploads is not None:
        trainer.uploads.start()
    with trainer.preemption.listening():
        checkpoint = trainer.args.resume_from_checkpoint
        if checkpoint is None or not trainer.restore_if_finished(checkpoint):
            _train_steps(trainer)
        metrics = trainer.evaluate(metric_key_prefix="best")
    figures = {name.removeprefix("best_"): value for name, value in metrics.items()}
    folder = Path(trainer.args.output_dir)
    weights = full_state_dict(trainer.model.state_dict())
    if trainer.is_world_process_zero():
        check_lock(folder)
        with unsharded_class(trainer.model):
            trainer.model.save_pretrained(folder, state_dict=weights)
        trainer.processor.save_pretrained(folder)
        _describe(trainer, figures)
    trainer.accelerator.wait_for_everyone()
    if trainer.uploads is not None:  # the other processes need not wait
        trainer.uploads.finish()
    return figures


def _describe(trainer: DetectionTrainer, figures: dict[str, float]) -> None:
    """Write what a reader wants of a run: its figures, report, pictures and card, and what to type next."""
    folder, figures = Path(trainer.args.output_dir), {**figures, "per_class": trainer.per_class}
    report = _write_report(trainer, figures)
    threshold = readable_threshold(report["operating_point"]["score"] if report else None)
    content = {"step": trainer.step_of_weights, "threshold": threshold, **figures}
    try:
        draw_sample_detections(folder, trainer.eval_dataset, *trainer.last_detections, threshold)
    except Exception as fault:  # the run is done but for this
        logger.warning(f"{DETECTIONS_PNG} could not be drawn: {fault!r}")
    (folder / FIGURES_JSON).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_card(folder)
    if trainer.args.overfit_images is not None:
        print(_overfit_verdict(trainer.args.overfit_images, figures["AP50"]))
    print(farewell(trainer, figures, threshold))


def _write_report(trainer: DetectionTrainer, figures: dict) -> dict | None:
    """Write the report of the best weights. Returns what it holds; None if it could not be written."""
    options = trainer.args
    split = options.eval_split
    if options.overfit_images is not None:
        split = f"the first {options.overfit_images} of {options.train_split}, learned by heart"
    evaluated = {"checkpoint": options.output_dir, "data set": options.dataset, "split": split}
    try:
        folder = Path(options.output_dir) / REPORT
        evaluation = Evaluation(figures, trainer.eval_dataset, *trainer.last_detections)
        return write_report(folder, evaluated, evaluation)
    except Exception as fault:
        logger.warning(f"The report could not be written: {fault!r}")
        return None


def farewell(trainer: DetectionTrainer, figures: dict, threshold: float) -> str:
    """Return what a run says at its end: how good it is, where it lies, and what can be done with it."""
    options, folder = trainer.args, trainer.args.output_dir
    return "\n".join(
        [
            f"Best AP {format_figure(figures['AP'])} (AP50 {format_figure(figures['AP50'])}) on {options.eval_split}, "
            f"at step {trainer.step_of_weights} of {trainer.state.global_step}; all of it is in {folder}:",
            f"  report      {Path(folder) / REPORT / REPORT_HTML}",
            f"  pictures    {Path(folder) / DETECTIONS_PNG} (scores above {threshold:.3g})",
            f"  curves      {Path(folder) / BOX_AP_PNG}",
            "Next:",
            f"  dino-detr predict {shlex.quote(str(folder))} IMAGE ... --output found",
            f"  dino-detr push {shlex.quote(str(folder))} YOU/NAME",
        ]
    )


def _overfit_verdict(count: int, ap50: float) -> str:
    if ap50 >= LEARNED_BY_HEART:
        return f"Overfit check passed: AP50 is {ap50:.3f} on the {count} images, at least {LEARNED_BY_HEART}."
    return (
        f"Overfit check failed: AP50 is {ap50:.3f} on the {count} images, below {LEARNED_BY_HEART}. Train more steps; "
        "if that does not help, look at the boxes and classes of these images, then at learning rate and image size."
    )


def _train_steps(trainer: DetectionTrainer) -> None:
    try:
        trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    except Preempted:  # in an evaluation
        trainer.preemption.evaluation_due = True
        trainer._save_checkpoint(trainer.model, trial=None)
        raise
    if trainer.preemption.agreed:
        raise Preempted
    if trainer.ema is not None and not (trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint):
        trainer.ema.exchange()  # what is left is the last average


def _first_images(rows: Dataset, options: DinoDetrTrainingArguments) -> Dataset:
    count = options.overfit_images
    if count > len(rows):
        raise ValueError(
            f"overfit_images={count}, but {options.train_split} of {options.dataset} has {len(rows)} images with boxes"
        )
    return rows.select(range(count))
