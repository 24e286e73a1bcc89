"""A training run from options to run folder: prepared, trained, described."""

import time
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..data import category_ids, class_names
from ..data.augmentation import Augmentation, build_augmentation
from ..data.repeating import draw_factors, number_of_samples
from ..data.samples import TrainingSamples
from ..evaluation.evaluate import Evaluation
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..runs.names import FIGURES
from .adapters import has_adapters, merge_adapters, save_adapters
from .checkpointing.lock import check_lock
from .checkpointing.output_dir import check_space, claim_output_dir, release_output_dir
from .checkpointing.preemption import Preempted
from .checkpointing.state import leaves_best, save_model, step_to_leave
from .checks import check_run_length
from .description import describe_run
from .guards.out_of_memory import explain_out_of_memory
from .guards.zero_ap import explain_zero_ap
from .options import DinoDetrTrainingArguments
from .outlook import announce
from .progress import without_bars_of_weights
from .resuming import restore_if_finished
from .run_folder import RunFolder
from .run_length import settle_run_length
from .run_rows import read_rows, warn_of_crowded_images
from .sharding import full_state_dict
from .starting_point import build_model
from .trainer import DetectionTrainer


def prepare(options: DinoDetrTrainingArguments) -> DetectionTrainer:
    """
    Do everything that comes before the first step: data, model and trainer.

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
    train_rows, eval_rows = read_rows(options)
    factors = draw_factors(train_rows, options.repeat_factor, options.dataset_weights)
    drawn = len(train_rows) if factors is None else number_of_samples(factors)
    steps = settle_run_length(options, len(train_rows), drawn)
    check_run_length(options, steps, options.forgiven)
    model = build_model(options, class_names(train_rows), category_ids(train_rows))
    check_space(options, model)
    for split, rows in ((options.train_split, train_rows), (options.eval_split, eval_rows)):
        warn_of_crowded_images(split, rows, model.config.num_queries)
    announce(options, model, steps, train_rows, eval_rows, drawn)
    processor = DinoDetrImageProcessor(
        size={"shortest_edge": max(options.image_sizes), "longest_edge": options.max_image_size}
    )
    return DetectionTrainer(
        model=model,
        args=options,
        processor=processor,
        train_dataset=TrainingSamples(train_rows, augmentation, options.seed, factors),
        eval_dataset=eval_rows,
        callbacks=[RunFolder(options)],
    )


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


@explain_out_of_memory
@without_bars_of_weights()
def train(trainer: DetectionTrainer) -> dict[str, Any]:
    """
    Train, evaluate, and leave the best weights and everything about the run in the run folder.

    Returns:
        COCO's figures of the best weights on the evaluation split, with `per_class` and the `seconds` it took.

    Raises:
        OutOfMemory: if there was not enough memory, with what takes less.
        Preempted: if a signal asked to stop; the last checkpoint is of the moment it came.
        FolderLost: if another run has taken the folder meanwhile.
    """
    try:
        if trainer.uploads is not None:
            trainer.uploads.start()
        with trainer.preemption.listening():
            _train_steps(trainer)
            _merge(trainer)
            started = time.perf_counter()
            evaluation = trainer.score()
            seconds = time.perf_counter() - started
        figures = {name: evaluation.figures[name] for name in FIGURES}
        figures |= {"seconds": seconds}
        figures |= {
            name: evaluation.figures[name] for name in ("per_class", "per_source") if name in evaluation.figures
        }
        _leave(trainer, evaluation, figures)
        if trainer.uploads is not None:  # the other processes need not wait
            trainer.uploads.finish()
        return figures
    finally:
        release_output_dir(trainer.args)


def _train_steps(trainer: DetectionTrainer) -> None:
    """Train, unless that was done before. The model has the weights then that the run leaves."""
    options, checkpoint = trainer.args, trainer.args.resume_from_checkpoint
    if checkpoint is not None and restore_if_finished(trainer, Path(checkpoint)):
        return
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except Preempted:  # in an evaluation
        trainer.preemption.evaluation_due = True
        trainer._save_checkpoint(trainer.model)
        raise
    if trainer.preemption.agreed:
        raise Preempted(trainer.state.global_step, trainer.preemption.exit_status)
    if trainer.average is not None and not leaves_best(trainer.state, options):
        trainer.average.exchange()  # what is left is the last average


def _merge(trainer: DetectionTrainer) -> None:
    """Have adapters merged, so that what is evaluated and left is what everyone loads; they are kept beside it."""
    if not has_adapters(trainer.model):
        return
    weights = full_state_dict(trainer.model.state_dict())
    if trainer.is_world_process_zero():
        check_lock(trainer.folder)
        save_adapters(trainer.folder, trainer.model, weights)
    merge_adapters(trainer.model, weights)


def _leave(trainer: DetectionTrainer, evaluation: Evaluation, figures: dict[str, Any]) -> None:
    """Write the weights and what a reader wants of the run into the run folder."""
    options, state = trainer.args, trainer.state
    main_process = trainer.is_world_process_zero()
    explain_zero_ap(evaluation, options, state, trainer.train_dataset, at_end=True)
    if main_process:
        check_lock(trainer.folder)
    save_model(trainer.folder, trainer.model, trainer.processor, main_process)
    if main_process:
        describe_run(options, evaluation, figures, step_to_leave(state, options), state.global_step)
    trainer.accelerator.wait_for_everyone()
