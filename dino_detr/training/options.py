"""A recipe file and the command line become one checked set of options."""

import difflib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from ..recipes import find_recipe
from .ema import figure_of_average

COCO_SIZES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]

# Of two that exclude one another, the command line's replaces the recipe's.
_RIVALS = [("model", "backbone"), ("lr_decay_steps", "lr_scheduler_type"), ("max_steps", "num_train_epochs")]

_AUGMENTATION = ["augmentation", "horizontal_flip", "photometric_distort", "zoom_out", "iou_crop"]

# Options that have an effect only where others allow it: (option, what decides, whether it has one).
_CONDITIONS = [
    ("patch_size", {"model", "backbone"}, lambda options: options.backbone is not None),
    *((name, {"overfit_images"}, lambda options: options.overfit_images is None) for name in _AUGMENTATION),
    ("eval_split", {"overfit_images"}, lambda options: options.overfit_images is None),
    ("eval_split", {"val_share"}, lambda options: options.val_share is None),
    ("val_share", {"overfit_images"}, lambda options: options.overfit_images is None),
    ("lr_scheduler_type", {"lr_decay_steps"}, lambda options: not options.lr_decay_steps),
    ("lr_scheduler_kwargs", {"lr_decay_steps"}, lambda options: not options.lr_decay_steps),
    ("num_train_epochs", {"max_steps"}, lambda options: options.max_steps <= 0),
    ("eval_steps", {"eval_strategy"}, lambda options: options.eval_strategy == "steps"),
    ("save_steps", {"save_strategy"}, lambda options: options.save_strategy == "steps"),
    ("logging_steps", {"logging_strategy"}, lambda options: options.logging_strategy == "steps"),
    ("save_total_limit", {"save_strategy"}, lambda options: options.save_strategy != "no"),
    ("backbone_layer_decay", {"freeze_backbone"}, lambda options: not options.freeze_backbone),
    *((f"hub_{name}", {"push_to_hub"}, lambda o: o.push_to_hub) for name in ("model_id", "strategy", "token")),
    ("hub_private_repo", {"push_to_hub"}, lambda options: options.push_to_hub or "trackio" in options.report_to),
    ("hub_always_push", {"push_to_hub", "hub_strategy"}, lambda o: o.push_to_hub and o.hub_strategy == "every_save"),
]

# Options of transformers that our data, loss or evaluation would pass over in silence.
_IDLE = {
    "auto_find_batch_size", "average_tokens_across_devices", "batch_eval_metrics", "bf16_full_eval", "do_eval",
    "do_predict", "do_train", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object",
    "fp16_full_eval", "include_for_metrics", "include_num_input_tokens_seen", "label_names", "label_smoothing_factor",
    "length_column_name", "neftune_noise_alpha", "optim_args", "optim_target_modules", "prediction_loss_only",
    "train_sampling_strategy", "use_cache", "use_liger_kernel", "liger_kernel_config", "enable_jit_checkpoint",
    "hub_revision",
}  # fmt: skip


@dataclass(repr=False)  # the one inherited leaves tokens out
class DinoDetrTrainingArguments(TrainingArguments):
    """
    The options of a run: those of transformers' `TrainingArguments` and the following. The defaults are the
    reference's.
    """

    model: str | None = field(default=None, metadata={"help": "Checkpoint folder or Hub id of a detector to train on."})
    backbone: str | None = field(
        default=None, metadata={"help": "Pretrained backbone of a new detector: Hub id, folder or timm:<name>."}
    )
    patch_size: int = field(default=16, metadata={"help": "Patch side to which the backbone is resampled."})
    freeze_backbone: bool = field(default=True, metadata={"help": "Leave the backbone as it is."})
    model_config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Further fields of DinoDetrConfig, as a mapping (on the command line: JSON). With backbone_config "
            "and no backbone, the backbone starts from random weights."
        },
    )
    num_queries: int | None = field(default=None, metadata={"help": "Object queries of a new detector."})
    num_denoising: int | None = field(default=None, metadata={"help": "Denoising budget of a new detector."})
    dataset: str | None = field(default=None, metadata={"help": "COCO folder, saved data set, Hub id, or `digits`."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="val", metadata={"help": "Split to evaluate on."})
    val_share: float | None = field(
        default=None,
        metadata={
            "help": "Set this share (0.2, say) of train_split aside and evaluate on it, instead of on eval_split; the "
            "images are chosen by their names, the same ones each time."
        },
    )
    strict: bool = field(
        default=False, metadata={"help": "Refuse data with defects, where they would be left out or set right."}
    )
    total_batch_size: int = field(default=16, metadata={"help": "Images a step, over all processes and accumulation."})
    image_sizes: list[int] = field(
        default_factory=lambda: list(COCO_SIZES),
        metadata={"help": "Shortest edges drawn in training; the largest is used in evaluation."},
    )
    max_image_size: int = field(default=1333, metadata={"help": "Longest edge."})
    augmentation: str = field(
        default="reference", metadata={"help": "`reference`, `large_scale_jitter`, `finetune` or `none`."}
    )
    horizontal_flip: float | None = field(
        default=None,
        metadata={"help": "Probability of a flip; this and the next three: the augmentation's own by default."},
    )
    photometric_distort: bool | None = field(default=None, metadata={"help": "Distort colours."})
    zoom_out: bool | None = field(default=None, metadata={"help": "Put images on larger canvases."})
    iou_crop: bool | None = field(default=None, metadata={"help": "Crop around objects, as SSD does."})
    overfit_images: int | None = field(
        default=None,
        metadata={
            "help": "Check that recipe and data can be learned at all: train on the first N images that have boxes and "
            "evaluate on the same, without augmentation, at the largest of image_sizes."
        },
    )
    backbone_lr_factor: float = field(
        default=0.1, metadata={"help": "Learning rate of backbone and pyramid, relative."}
    )
    backbone_layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "Factor of the learning rate from each block of an unfrozen backbone to the one before it "
            "(0.7 suits ViT-B, 0.8 ViT-L)."
        },
    )
    lr_decay_steps: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Steps at which the learning rate drops to a tenth, instead of lr_scheduler_type; values below 1 "
            "are fractions of the run."
        },
    )

    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Keep a moving average of the weights with this decay (0.999, say); it is evaluated and saved "
            "beside the raw weights, and the best average is what the run leaves."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after this many evaluations without a better metric_for_best_model."},
    )

    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Start anew where output_dir holds a run and none is resumed; the old one is renamed, not deleted."
        },
    )

    # transformers' own options, with the reference's values or what detection needs
    output_dir: str | None = field(default=None, metadata={"help": "The run folder; runs/<recipe> by default."})
    learning_rate: float = field(default=1e-4, metadata={"help": "AdamW's learning rate."})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW's weight decay; norms have none."})
    max_grad_norm: float = field(default=0.1, metadata={"help": "Gradients are clipped to this norm."})
    lr_scheduler_type: str = field(
        default="constant_with_warmup", metadata={"help": "Schedule without lr_decay_steps."}
    )
    metric_for_best_model: str | None = field(default="AP", metadata={"help": "Figure by which the best is kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Finish with the best weights."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Must be false: images are a column."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between log lines."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Trackers to report to."})
    project: str = field(default="dino-detr", metadata={"help": "The trackers' project."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: steps, epoch or no."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save; as eval_strategy, to keep the best."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not needed: every parameter gets a gradient in every step."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})

    recipe: dict = field(default_factory=dict, init=False, repr=False)  # what was asked for, by name

    def __post_init__(self):
        if isinstance(self.model_config, str):
            self.model_config = json.loads(self.model_config)
        # YAML's own types do not pass through argparse
        self.lr_decay_steps = [float(step) for step in _as_list(self.lr_decay_steps)]
        self.image_sizes = [int(size) for size in _as_list(self.image_sizes)]
        if self.overfit_images is not None:
            if self.overfit_images < 1:
                raise ValueError(f"overfit_images={self.overfit_images} must be at least 1")
            self.augmentation, self.image_sizes = "none", [max(self.image_sizes)]
            self.horizontal_flip = self.photometric_distort = self.zoom_out = self.iou_crop = None
            self.eval_split = self.train_split
        super().__post_init__()
        if self.model is None and self.backbone is None and "backbone_config" not in (self.model_config or {}):
            raise ValueError("say what to train: model, backbone, or model_config with a backbone_config")
        if self.model is not None and self.backbone is not None:
            raise ValueError("model and backbone are both given, but a checkpoint brings its own backbone")
        if (self.model or self.backbone) and "backbone_config" in (self.model_config or {}):
            raise ValueError("model_config has a backbone_config, but model or backbone brings its own: leave one out")
        if self.optim not in ("adamw_torch", "adamw_torch_fused"):
            raise ValueError(f"optim={self.optim} is not the recipe's AdamW, whose parameter groups are fixed")
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise ValueError(f"val_share={self.val_share} must be between 0 and 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must be between 0 and 1")
        if self.ema_decay is not None and self.metric_for_best_model is not None:
            self.metric_for_best_model = figure_of_average(self.metric_for_best_model)
        if self.backbone_layer_decay is not None and not 0 < self.backbone_layer_decay <= 1:
            raise ValueError(f"backbone_layer_decay={self.backbone_layer_decay} must be between 0 and 1")
        if self.save_total_limit == 1 and self.eval_strategy != "no":
            raise ValueError("save_total_limit must be 2 or more: the best checkpoint, and the last to resume from")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience={self.early_stopping_patience} must be at least 1")
        if self.early_stopping_patience is not None and not (
            self.load_best_model_at_end and self.metric_for_best_model and self.eval_strategy != "no"
        ):
            raise ValueError(
                "early_stopping_patience needs evaluations (eval_strategy), a metric_for_best_model and "
                "load_best_model_at_end"
            )
        if self.push_to_hub and self.hub_strategy not in ("every_save", "end"):
            raise ValueError(
                f"hub_strategy={self.hub_strategy.value} would upload the state of training: choose every_save (the "
                "best weights at each improvement, and the finished run) or end (only this)"
            )
        asked = "fp16" if self.fp16 else "bf16" if self.bf16 else "no"
        if self.mixed_precision != asked:
            raise ValueError(
                f"accelerate's configuration says mixed_precision: {self.mixed_precision}, the recipe does not: set "
                f"{self.mixed_precision}: true in the recipe, or mixed_precision: 'no' there"
            )
        if self.fp16 and self.device.type == "cpu":
            raise ValueError("fp16 needs a GPU; on a CPU use bf16, or neither for float32")
        if self.dataset is None:
            raise ValueError("say what to train on: dataset")
        if missing := set(self.report_to) - set(get_available_reporting_integrations()):
            raise ValueError(f"report_to: {', '.join(sorted(missing))} is not installed here, or not known")
        if self.run_name is None and self.output_dir is not None:
            self.run_name = Path(self.output_dir).name
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be false: the columns are what samples are made of")
        if self.n_gpu > 1:
            self._n_gpu = 1  # nn.DataParallel cannot split labels
            print(f"Training on one GPU; `accelerate launch train.py ...` uses all {torch.cuda.device_count()}.")
        per_step = self.world_size * self.gradient_accumulation_steps
        if self.total_batch_size % per_step:
            raise ValueError(
                f"total_batch_size={self.total_batch_size} does not divide into {self.world_size} processes x "
                f"{self.gradient_accumulation_steps} accumulated steps"
            )
        self.per_device_train_batch_size = self.total_batch_size // per_step


def parse_options(arguments: list[str]) -> DinoDetrTrainingArguments:
    """
    Options of `RECIPE [--option value ...]`; the command line wins.

    Raises:
        ValueError: for an option that does not exist, naming it and the nearest that does.
        FileNotFoundError: if there is no such recipe.
    """
    recipe, *rest = arguments
    path = find_recipe(recipe)
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{recipe}: a recipe is a mapping of options to values")
    known = {f.name for f in fields(DinoDetrTrainingArguments) if f.init}
    named = {part[2:].split("=")[0].replace("-", "_") for part in rest if part.startswith("--")}
    on_command_line = {name if name in known else name.removeprefix("no_") for name in named}
    _check_names(recipe, values, known)
    _check_names("command line", on_command_line, known)
    for either, other in _RIVALS:
        if len({either, other} & on_command_line) == 1:  # instead of the recipe's
            values.pop(either if other in on_command_line else other, None)
    if on_command_line & {"model", "backbone"} and "model_config" in values:
        values["model_config"] = {k: v for k, v in values["model_config"].items() if k != "backbone_config"}
    parser = HfArgumentParser(DinoDetrTrainingArguments, prog="dino-detr train", allow_abbrev=False)
    parser.set_defaults(**{"output_dir": f"runs/{path.stem}", **values})
    (options,) = parser.parse_args_into_dataclasses(args=rest, look_for_args_file=False)
    for name, deciding, has_effect in _CONDITIONS:
        # what the recipe says may be idle where the command line decides otherwise
        said = name in on_command_line or (name in values and not deciding & on_command_line)
        if said and not has_effect(options):
            raise ValueError(f"{name} has no effect here: see {', '.join(sorted(deciding))}")
    ours = known - {f.name for f in fields(TrainingArguments)}
    asked = ours | set(values) | on_command_line
    resolved = options.to_dict()
    asked -= {"resume_from_checkpoint", "hub_token", "overwrite"}
    asked -= {name for name, _, has_effect in _CONDITIONS if not has_effect(options)}
    options.recipe = {name: resolved[name] for name in sorted(asked) if resolved[name] is not None}
    return options


def _check_names(place: str, names, known: set[str]) -> None:
    for name in names:
        if name == "per_device_train_batch_size":
            raise ValueError(f"{place}: set total_batch_size; {name} follows from it")
        if name in _IDLE:
            raise ValueError(f"{place}: {name} is an option of transformers that has no effect here")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{place}: unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _as_list(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]
