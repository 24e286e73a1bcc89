"""What options must be, each alone and beside the others: looked at before anything else is done."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from transformers import CONFIG_MAPPING, get_scheduler
from transformers.integrations import get_available_reporting_integrations  # pyright: ignore[reportPrivateImportUsage]
from transformers.training_args import trainer_log_levels

from ..configuration_dino_detr import DinoDetrConfig
from ..data.check import IMAGE_CHECKS
from ..data.joining import name_sources
from ..runs.names import FIGURES
from .adapters import check_adapters
from .precision import check_precision

_AUGMENTATION = ["augmentation", "horizontal_flip", "photometric_distort", "zoom_out", "iou_crop"]
_WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")  # schedules that pass warmup_steps over


def _uses_trackio(options: Any) -> bool:
    return "trackio" in (options.report_to or []) or options.report_to in ("all", ["all"])


def _warms_up(options: Any) -> bool:
    return bool(options.lr_decay_steps) or options.lr_scheduler_type not in _WITHOUT_WARMUP or not options.warmup_steps


# Options that have an effect only where others allow it: (option, what decides, whether it has one).
DEPENDENT_OPTIONS = [
    ("dataset_weights", {"dataset"}, lambda options: isinstance(options.dataset, list)),
    ("patch_size", {"model", "backbone"}, lambda options: options.backbone is not None),
    ("augmentation", {"overfit_images"}, lambda o: o.overfit_images is None or o.augmentation == "none"),
    *((name, {"overfit_images"}, lambda options: options.overfit_images is None) for name in _AUGMENTATION[1:]),
    ("eval_split", {"overfit_images"}, lambda o: o.overfit_images is None or o.eval_split == o.train_split),
    ("eval_split", {"val_share"}, lambda options: options.val_share is None),
    ("val_share", {"overfit_images"}, lambda options: options.overfit_images is None),
    ("lr_scheduler_type", {"lr_decay_steps"}, lambda options: not options.lr_decay_steps),
    ("lr_scheduler_kwargs", {"lr_decay_steps"}, lambda options: not options.lr_decay_steps),
    ("warmup_steps", {"lr_scheduler_type"}, _warms_up),
    ("num_train_epochs", {"max_steps"}, lambda options: options.max_steps <= 0),
    ("eval_steps", {"eval_strategy"}, lambda options: options.eval_strategy == "steps"),
    ("eval_delay", {"eval_strategy"}, lambda options: options.eval_strategy != "no"),
    ("metric_for_best_model", {"eval_strategy"}, lambda options: options.eval_strategy != "no"),
    ("save_steps", {"save_strategy"}, lambda options: options.save_strategy == "steps"),
    ("logging_steps", {"logging_strategy"}, lambda options: options.logging_strategy == "steps"),
    ("save_total_limit", {"save_strategy"}, lambda options: options.save_strategy != "no"),
    ("save_only_model", {"save_strategy"}, lambda options: options.save_strategy != "no"),
    (
        "backbone_layer_decay",
        {"freeze_backbone"},
        lambda options: options.freeze_backbone is not True or options.lora_rank is not None,
    ),
    ("lora_rank", {"freeze_backbone"}, lambda options: options.freeze_backbone is True),
    ("lora_targets", {"lora_rank"}, lambda options: options.lora_rank is not None),
    *(
        (f"dataloader_{name}", {"dataloader_num_workers"}, lambda options: options.dataloader_num_workers > 0)
        for name in ("persistent_workers", "prefetch_factor", "multiprocessing_context")
    ),
    *((f"hub_{name}", {"push_to_hub"}, lambda o: o.push_to_hub) for name in ("model_id", "strategy", "token")),
    ("hub_private_repo", {"push_to_hub"}, lambda options: options.push_to_hub or _uses_trackio(options)),
    ("hub_always_push", {"push_to_hub", "hub_strategy"}, lambda o: o.push_to_hub and o.hub_strategy == "every_save"),
    *((name, {"report_to"}, _uses_trackio) for name in ("project", "trackio_space_id", "trackio_bucket_id")),
]

# What is said of an option that has no effect, beyond what decides it.
_INSTEAD = {"project": "; the run folder is output_dir"}


def idle_options(names: Iterable[str], options: Any) -> list[tuple[str, set[str]]]:
    """Return those of the names that have no effect beside the other options, each with the options that decide it."""
    return [
        (name, deciding)
        for name, deciding, has_effect in DEPENDENT_OPTIONS
        if name in names and not has_effect(options)
    ]


def refuse_idle(names: Iterable[str], options: Any) -> None:
    for name, deciding in idle_options(names, options):
        # off is what they are without effect
        if getattr(options, name) is not False:
            raise ValueError(f"{name} has no effect here: see {', '.join(sorted(deciding))}{_INSTEAD.get(name, '')}")


_COUNT = (lambda value: value >= 1, "at least 1")
_A_PATCH = (lambda value: value >= 16, "at least 16")  # and what is smaller shows nothing
_POSITIVE = (lambda value: value > 0, "above 0")
_NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")
_BELOW_ONE = (lambda value: 0 <= value < 1, "from 0 to below 1")
_SEED = (lambda value: 0 <= value < 2**32, "from 0 to 4294967295")

_LIMITS = {
    **dict.fromkeys(
        (
            "dataloader_prefetch_factor", "ddp_timeout", "early_stopping_patience", "gradient_accumulation_steps",
            "lora_rank", "num_queries", "overfit_images", "patch_size", "per_device_eval_batch_size",
            "save_total_limit", "total_batch_size",
        ),
        _COUNT,
    ),
    **dict.fromkeys(("adam_epsilon", "eval_steps", "logging_steps", "num_train_epochs", "save_steps"), _POSITIVE),
    **dict.fromkeys(
        (
            "backbone_lr_factor", "dataloader_num_workers", "eval_delay", "learning_rate", "max_grad_norm",
            "num_denoising", "warmup_steps", "weight_decay",
        ),
        _NOT_NEGATIVE,
    ),
    "adam_beta1": _BELOW_ONE,
    "adam_beta2": _BELOW_ONE,
    "backbone_layer_decay": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "dataset_weights": _POSITIVE,
    "ema_decay": (lambda value: 0 < value < 1, "between 0 and 1"),
    "horizontal_flip": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "image_sizes": _A_PATCH,
    "lr_decay_steps": _POSITIVE,
    "max_image_size": _A_PATCH,
    "max_steps": (lambda value: value == -1 or value >= 1, "at least 1 (or -1: num_train_epochs decides)"),
    "repeat_factor": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "seed": _SEED,
    "val_share": (lambda value: 0 < value < 1, "between 0 and 1"),
}  # fmt: skip


def check_limits(options: Any) -> None:
    for name, (allowed, text) in _LIMITS.items():
        value = getattr(options, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (math.isfinite(number) and allowed(number)):
                raise ValueError(f"{name}={number} must be {text}")


def check_texts(options: Any) -> None:
    """Refuse empty text, as from a variable that was not set: it would be taken for the folder one is in."""
    for name in sorted(options.given):
        value = getattr(options, name)
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and not text.strip() for text in texts):
            raise ValueError(f"{name} is empty: give it a value, or leave it out")


def check_sizes(options: Any) -> None:
    if not options.image_sizes:
        raise ValueError("image_sizes is empty: say at least one shortest edge, in pixels")
    if max(options.image_sizes) > options.max_image_size:
        raise ValueError(
            f"image_sizes has {max(options.image_sizes)}, above max_image_size={options.max_image_size}: the shortest "
            "edge cannot be longer than the longest; lower the one or raise the other"
        )


def check_image_check(options: Any) -> None:
    if options.check_images not in IMAGE_CHECKS:
        raise ValueError(f"check_images={options.check_images!r} is none of {', '.join(IMAGE_CHECKS)}")


def check_start(options: Any) -> None:
    """Check that it is clear what is trained, and on what."""
    config = options.model_config or {}
    if options.model is None and options.backbone is None and "backbone_config" not in config:
        raise ValueError("say what to train: model, backbone, or model_config with a backbone_config")
    if options.model is not None and options.backbone is not None:
        raise ValueError("model and backbone are both given, but a checkpoint brings its own backbone")
    if options.model is not None and "backbone_config" in config:
        raise ValueError("model_config has a backbone_config, but model brings its own: leave one out")
    if options.dataset is None:
        raise ValueError("say what to train on: dataset")


def check_datasets(options: Any) -> None:
    """Check that several sources are different ones, and have a weight each."""
    if not isinstance(options.dataset, list):
        return
    if not options.dataset:
        raise ValueError("dataset is an empty list: name at least one source")
    name_sources(options.dataset)
    weights = options.dataset_weights
    if weights is not None and len(weights) != len(options.dataset):
        raise ValueError(
            f"dataset_weights has {len(weights)} numbers and dataset {len(options.dataset)} sources: give one for each"
        )


def check_model_config(options: Any) -> None:
    """Check that its numbers can be, and that no field is passed over for an option of the same meaning."""
    kinds = {field.name: field.type for field in fields(DinoDetrConfig)}
    for name, value in (options.model_config or {}).items():
        if name in ("id2label", "label2id", "num_labels", "category_ids"):
            raise ValueError(f"model_config: {name} follows from the data set's classes; leave it out")
        if name in ("freeze_backbone", "patch_size"):
            raise ValueError(f"model_config: {name} is an option of its own; give it outside of model_config")
        if getattr(options, name, None) is not None and name in ("num_queries", "num_denoising"):
            raise ValueError(f"{name} is given as an option and in model_config: leave one out")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue  # of its kind the configuration itself says more
        if name == "position_embedding_offset":  # which is below 0 by default
            continue
        may_be_none = name in ("num_denoising", "num_unused_classes")
        allowed, text = _COUNT if kinds.get(name) is int and not may_be_none else _NOT_NEGATIVE
        if not (math.isfinite(value) and allowed(value)):
            raise ValueError(f"model_config: {name}={value} must be {text}")


def check_backbone_config(options: Any) -> None:
    """Check that the backbone has each field: transformers says nothing of one that it has not."""
    fields_given = (options.model_config or {}).get("backbone_config")
    if not isinstance(fields_given, dict) or options.backbone is not None:
        return  # the configuration itself says more, or the pretrained backbone's
    kind = str(fields_given.get("model_type"))
    if kind not in CONFIG_MAPPING:
        return
    config = CONFIG_MAPPING[kind]()
    for name in fields_given:
        if not hasattr(config, name):
            near = difflib.get_close_matches(str(name), config.to_dict(), n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"model_config: backbone_config: {kind} has no field {name!r}{meant}")


def check_metric(options: Any) -> None:
    """Check that evaluations have the figure by which the best weights are chosen."""
    if options.metric_for_best_model is None:
        return
    name = options.metric_for_best_model.removeprefix("eval_")
    averages = [f"ema_{figure}" for figure in FIGURES]
    there_are = [*FIGURES, *(averages if options.ema_decay is not None else [])]
    if name not in there_are:
        without = "; ema_AP and so on need ema_decay" if name in averages else ""
        raise ValueError(
            f"metric_for_best_model={options.metric_for_best_model} is not a figure of the evaluation: there are "
            f"{', '.join(there_are)}{without}"
        )
    if options.greater_is_better is False:
        raise ValueError(f"greater_is_better=false would keep the worst weights: the best have the highest {name}")


def check_optimizer(options: Any) -> None:
    if options.optim != "adamw_torch_fused":
        raise ValueError(
            f"optim={getattr(options.optim, 'value', options.optim)} is not the recipe's AdamW (adamw_torch_fused), "
            "whose parameter groups are fixed"
        )


def check_checkpoints(options: Any) -> None:
    if options.save_total_limit == 1 and options.eval_strategy != "no":
        raise ValueError("save_total_limit must be 2 or more: the best checkpoint, and the last to resume from")
    if options.early_stopping_patience is not None and not (
        options.load_best_model_at_end and options.metric_for_best_model and options.eval_strategy != "no"
    ):
        raise ValueError(
            "early_stopping_patience needs evaluations (eval_strategy), a metric_for_best_model and "
            "load_best_model_at_end"
        )


def check_uploads(options: Any) -> None:
    if options.push_to_hub and options.hub_strategy not in ("every_save", "end"):
        raise ValueError(
            f"hub_strategy={options.hub_strategy.value} would upload the state of training: choose every_save (the "
            "best weights at each improvement, and the finished run) or end (only this)"
        )


def check_scheduler(options: Any) -> None:
    """Check that transformers can make the schedule: some need lr_scheduler_kwargs, each knows its own only."""
    if options.lr_decay_steps:
        return
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    kwargs = options.lr_scheduler_kwargs or {}
    try:
        get_scheduler(options.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=dict(kwargs))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"lr_scheduler_type={options.lr_scheduler_type.value} cannot be made with lr_scheduler_kwargs={kwargs}: "
            f"{' '.join(str(error).split())}"
        ) from error


def check_log_levels(options: Any) -> None:
    for name in ("log_level", "log_level_replica"):
        if getattr(options, name) not in trainer_log_levels:
            raise ValueError(f"{name}={getattr(options, name)} must be one of {', '.join(trainer_log_levels)}")


def check_data_loading(options: Any) -> None:
    if options.remove_unused_columns:
        raise ValueError("remove_unused_columns must be false: the columns are what samples are made of")
    context = options.dataloader_multiprocessing_context
    if context not in (None, "fork", "spawn", "forkserver"):
        raise ValueError(f"dataloader_multiprocessing_context={context} must be fork, spawn or forkserver")


def check_trackers(options: Any) -> None:
    if missing := set(options.report_to) - set(get_available_reporting_integrations()):
        raise ValueError(f"report_to: {', '.join(sorted(missing))} is not installed here, or not known")


def check_run_length(options: Any, steps: int, forgiven: frozenset[str] = frozenset()) -> list[str]:
    """
    Look at what is to happen at a step of the run, which has so many.

    Args:
        forgiven: options that are no mistake where the run is too short for them: the recipe's, if the command line
            made the run shorter.

    Returns:
        A sentence for each of those that this is true of.

    Raises:
        ValueError: for any other option that the run is too short for.
    """
    found = {}
    if options.warmup_steps > max(steps, 1):
        found["warmup_steps"] = (
            f"warmup_steps={options.warmup_steps:g} is longer than the run of {steps} steps, which ends at "
            f"{steps / options.warmup_steps:.1%} of learning_rate: train longer, or let it be a fraction of the run "
            "(--warmup_steps 0.05)"
        )
    late = [step for step in options.lr_decay_steps if step >= max(steps, 1)]
    if late:
        found["lr_decay_steps"] = (
            f"lr_decay_steps has {late[0]:g}, and the run of {steps} steps is over by then: values below 1 are "
            "fractions of the run (--lr_decay_steps 0.8)"
        )
    for name, sentence in found.items():
        if name not in forgiven:
            raise ValueError(sentence)
    return list(found.values())


BEFORE_TRANSFORMERS = [
    check_texts, check_limits, check_sizes, check_image_check, check_start, check_datasets, check_model_config,
    check_backbone_config, check_adapters, check_checkpoints,
]  # fmt: skip
AFTER_TRANSFORMERS = [
    check_metric, check_optimizer, check_scheduler, check_log_levels, check_uploads, check_precision,
    check_data_loading, check_trackers,
]  # fmt: skip
