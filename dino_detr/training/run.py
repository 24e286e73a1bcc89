"""A training run from options to run folder."""

import json
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging

from ..configuration_dino_detr import DinoDetrConfig
from ..data import category_ids, class_names, load_detection_dataset
from ..data.augmentation import build_augmentation
from ..data.samples import TrainingSamples, drop_images_without_boxes
from ..hub.cards import write_card
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..modeling_dino_detr import DinoDetrForObjectDetection
from .checkpoints import find_checkpoint, find_damage
from .options import DinoDetrTrainingArguments
from .preemption import Preempted
from .run_folder import RunFolder, draw_sample_detections
from .sharding import gather, own_class, whole_parameters
from .trainer import DetectionTrainer

logger = logging.get_logger(__name__)


def prepare(options: DinoDetrTrainingArguments) -> DetectionTrainer:
    """
    Everything before the first step: data, model and trainer.

    Raises:
        FileExistsError: if the run folder holds a run and `resume_from_checkpoint` was not given.
        FileNotFoundError, ValueError: for data, weights or options that cannot be trained with.
    """
    options.resume_from_checkpoint = _checkpoint_to_resume(options)
    set_seed(options.seed)
    train_rows = drop_images_without_boxes(load_detection_dataset(options.dataset, options.train_split))
    if not len(train_rows):
        raise ValueError(f"{options.dataset}: no image of {options.train_split} has a box to learn from")
    eval_rows = load_detection_dataset(options.dataset, options.eval_split)
    if class_names(train_rows) != class_names(eval_rows):
        raise ValueError(
            f"{options.dataset}: the classes of {options.train_split} {class_names(train_rows)} are not those of "
            f"{options.eval_split} {class_names(eval_rows)}"
        )
    model = build_model(options, class_names(train_rows), category_ids(train_rows))
    processor = DinoDetrImageProcessor(
        size={"shortest_edge": max(options.image_sizes), "longest_edge": options.max_image_size}
    )
    augmentation = build_augmentation(options.augmentation, options.image_sizes, options.max_image_size)
    return DetectionTrainer(
        model=model,
        args=options,
        processor=processor,
        train_dataset=TrainingSamples(train_rows, augmentation, options.seed),
        eval_dataset=eval_rows,
        callbacks=[RunFolder(options)],
    )


def train(trainer: DetectionTrainer) -> dict[str, float]:
    """
    Train, evaluate, and leave the best weights and everything about the run in the run folder.

    Returns:
        The figures of the best weights on the evaluation split.

    Raises:
        Preempted: if a signal asked to stop; the last checkpoint is of the moment it came.
    """
    with trainer.preemption.listening():
        checkpoint = trainer.args.resume_from_checkpoint
        if checkpoint is None or not trainer.restore_if_finished(checkpoint):
            _train_steps(trainer)
        metrics = trainer.evaluate(metric_key_prefix="best")
    figures = {name.removeprefix("best_"): value for name, value in metrics.items()}
    folder = Path(trainer.args.output_dir)
    weights = gather(trainer.model.state_dict())
    if trainer.is_world_process_zero():
        with own_class(trainer.model):
            trainer.model.save_pretrained(folder, state_dict=weights)
        trainer.processor.save_pretrained(folder)
    with whole_parameters(trainer.model):
        if trainer.is_world_process_zero():
            draw_sample_detections(trainer.model, trainer.processor, trainer.eval_dataset, folder)
    if trainer.is_world_process_zero():
        (folder / "figures.json").write_text(json.dumps({**figures, "per_class": trainer.per_class}, indent=2) + "\n")
        write_card(folder)
    trainer.accelerator.wait_for_everyone()
    return figures


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


def build_model(options: DinoDetrTrainingArguments, names: list[str], ids: list[int]) -> DinoDetrForObjectDetection:
    """The detector the options ask for, with the data set's classes."""
    arguments = dict(options.model_config or {})
    for name in ("num_queries", "num_denoising"):
        if getattr(options, name) is not None:
            arguments[name] = getattr(options, name)
    arguments |= {"id2label": dict(enumerate(names)), "category_ids": ids, "freeze_backbone": options.freeze_backbone}
    if options.model is not None:
        trained = DinoDetrConfig.from_pretrained(options.model).to_dict()
        config = DinoDetrConfig(**(trained | arguments | {"label2id": None}))
        return DinoDetrForObjectDetection.from_pretrained(options.model, config=config, ignore_mismatched_sizes=True)
    if options.backbone is not None:
        return DinoDetrForObjectDetection.from_backbone(options.backbone, patch_size=options.patch_size, **arguments)
    return DinoDetrForObjectDetection(DinoDetrConfig(**arguments))


def _checkpoint_to_resume(options: DinoDetrTrainingArguments) -> str | None:
    folder, asked = Path(options.output_dir), options.resume_from_checkpoint
    if asked == "latest":
        checkpoint = find_checkpoint(folder)
        if checkpoint is not None:
            return str(checkpoint)
        if not (folder / "config.json").exists():
            logger.warning(f"{folder} holds no checkpoint yet: the run starts from its first step")
            return None
    elif asked is not None:
        if not Path(asked).is_dir():
            raise FileNotFoundError(f"resume_from_checkpoint: there is no folder {asked}")
        fault = find_damage(Path(asked))
        if fault is not None:
            raise ValueError(f"{asked} cannot be resumed from: {fault}")
        return asked
    taken = any((folder / name).exists() for name in ("metrics.jsonl", "evaluation.jsonl", "config.json"))
    if taken or any(folder.glob("checkpoint-*")):
        raise FileExistsError(
            f"{folder} holds a run or a checkpoint already: go on with --resume_from_checkpoint latest, or choose "
            "another --output_dir"
        )
    return None
