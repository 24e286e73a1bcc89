"""The options of a run: one checked set, whether they come from a recipe, the command line or Python."""

from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, get_type_hints

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from ..recipes import find_recipe
from ..runs.names import figure_of_average
from .checks import AFTER_TRANSFORMERS, BEFORE_TRANSFORMERS, check_run_length, idle_options, refuse_idle
from .option_names import check_names
from .option_values import is_switch, read_value
from .precision import settle_precision
from .recipe import merge, read_command_line, read_recipe

COCO_SIZES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]


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
    patch_size: int = field(default=16, metadata={"help": "Patch side to which a plain ViT is resampled."})
    freeze_backbone: Annotated[bool, int] = field(  # or a number; `HfArgumentParser` knows no union of the two
        default=True,
        metadata={
            "help": "Leave the backbone as it is. A number: only that many of its stages, stem or embeddings first (a "
            "plain ViT's stages are its blocks)."
        },
    )
    model_config: dict | None = field(
        default=None,
        metadata={
            "help": "Further fields of DinoDetrConfig, as a mapping (on the command line: JSON). Its backbone_config "
            "changes fields of the backbone (drop_path_rate), or is, without one, that of random weights."
        },
    )
    num_queries: int | None = field(default=None, metadata={"help": "Object queries of a new detector."})
    num_denoising: int | None = field(default=None, metadata={"help": "Denoising budget of a new detector."})
    dataset: list[str] | None | str = field(  # in the order in which `HfArgumentParser` takes it for a list
        default=None,
        metadata={
            "help": "COCO folder, saved data set, Hub id, or `digits`. Several of them are trained on as one, their "
            "classes joined by name."
        },
    )
    dataset_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "How many times an epoch has each image of a source, for each of several in dataset (1 3, say; "
            "0.5: half of them)."
        },
    )
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
    check_images: str = field(
        default="pixels",
        metadata={
            "help": "How the images are checked before training: `pixels` decodes each once, `headers` reads their "
            "sizes, `none` takes the annotations' word, where there are too many to look at."
        },
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
    repeat_factor: float | None = field(
        default=None,
        metadata={
            "help": "Show images with rare classes more often (LVIS's repeat-factor sampling): a class is rare that is "
            "in a smaller share of the images than this (0.1, say)."
        },
    )
    class_weights: dict | None = field(
        default=None,
        metadata={
            "help": "Weights of classes in the classification loss, by name (on the command line: JSON); 1 for the "
            "others."
        },
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
    muon: bool = field(
        default=False,
        metadata={
            "help": "Let Muon train the matrices of the layers, and AdamW the rest: fewer steps from random weights."
        },
    )
    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Tune a frozen backbone by adapters of this rank (LoRA; 16, say) on its linear layers. Checkpoints "
            "have them merged, and beside them in adapter/. Needs peft."
        },
    )
    lora_targets: str = field(
        default="backbone", metadata={"help": "What has adapters: `backbone`, or `all`: encoder and decoder too."}
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
    lr_scheduler_type: SchedulerType | str = field(
        default="constant_with_warmup", metadata={"help": "Schedule without lr_decay_steps."}
    )
    metric_for_best_model: str | None = field(default="AP", metadata={"help": "Figure by which the best is kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Finish with the best weights."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Must be false: images are a column."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between log lines."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Trackers to report to."})
    project: str = field(default="dino-detr", metadata={"help": "The trackers' project."})
    eval_strategy: IntervalStrategy | str = field(
        default="epoch", metadata={"help": "When to evaluate: steps, epoch or no."}
    )
    save_strategy: SaveStrategy | str = field(
        default="epoch", metadata={"help": "When to save; as eval_strategy, to keep the best."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not needed: every parameter gets a gradient in every step."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})

    bf16: bool | str = field(
        default=False,
        metadata={"help": "Compute in bfloat16: true, false, or auto: on a GPU that has it, in float32 elsewhere."},
    )

    recipe: dict = field(default_factory=dict, init=False, repr=False)  # what was asked for, by name
    given: frozenset[str] = field(default=frozenset(), init=False, repr=False)  # names of the options that were said
    steps_chosen = False  # by the number of images
    forgiven = frozenset()  # options of the recipe that the command line's shorter run may be too short for

    def __new__(cls, *args, **kwargs):
        options = super().__new__(cls)
        options.given = _given(cls, args, kwargs)
        return options

    def __post_init__(self):
        check_names("options", self.given - {"per_device_train_batch_size"}, _known())
        self._read_values()
        if isinstance(self.dataset, list) and len(self.dataset) == 1:
            self.dataset = self.dataset[0]
        for check in BEFORE_TRANSFORMERS:
            check(self)
        refuse_idle(self.given, self)
        if self.overfit_images is not None:
            self.augmentation, self.image_sizes = "none", [max(self.image_sizes)]
            self.horizontal_flip = self.photometric_distort = self.zoom_out = self.iou_crop = None
            self.eval_split = self.train_split
        if self.ema_decay is not None and self.metric_for_best_model is not None:
            self.metric_for_best_model = figure_of_average(self.metric_for_best_model)
        settle_precision(self)
        self._settle_gradient_checkpointing()
        try:
            super().__post_init__()
        except (ValueError, TypeError) as error:
            raise ValueError(" ".join(str(error).split())) from error
        for check in AFTER_TRANSFORMERS:
            check(self)
        if self.run_name is None and self.output_dir is not None:
            self.run_name = Path(self.output_dir).name
        if self.n_gpu > 1:
            self._n_gpu = 1  # nn.DataParallel cannot split labels
            print(f"Training on one GPU; `accelerate launch train.py ...` uses all {torch.cuda.device_count()}.")
        self._divide_batch()
        self._record()

    def _read_values(self) -> None:
        kinds = _kinds()
        for name in self.given:
            try:
                setattr(self, name, read_value(getattr(self, name), kinds[name]))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def _settle_gradient_checkpointing(self) -> None:
        """Give it the name that this version of transformers has for it."""
        if not hasattr(self, "activation_checkpointing"):
            return
        for suffix in ("", "_kwargs"):
            old, new = f"gradient_checkpointing{suffix}", f"activation_checkpointing{suffix}"
            values = getattr(self, old), getattr(self, new)
            if None not in values and values[0] != values[1]:
                raise ValueError(f"{old} and {new} are one option, and given twice: leave one out")
            setattr(self, new, values[0] if values[1] is None else values[1])
            setattr(self, old, None)  # transformers sets it again

    def _divide_batch(self) -> None:
        asked = self.per_device_train_batch_size if "per_device_train_batch_size" in self.given else None
        per_step = self.world_size * self.gradient_accumulation_steps
        if self.total_batch_size % per_step:
            raise ValueError(
                f"total_batch_size={self.total_batch_size} does not divide into {self.world_size} processes x "
                f"{self.gradient_accumulation_steps} accumulated steps"
            )
        self.per_device_train_batch_size = self.total_batch_size // per_step
        if asked not in (None, self.per_device_train_batch_size):
            raise ValueError("options: set total_batch_size; per_device_train_batch_size follows from it")

    @property
    def sources(self) -> list[str]:
        """What `dataset` names, one or several."""
        return self.dataset if isinstance(self.dataset, list) else [str(self.dataset)]

    @property
    def run_folder(self) -> Path:
        """The folder that everything of the run goes to. `parse_options` names one where nobody else does."""
        assert self.output_dir is not None
        return Path(self.output_dir)

    def accumulate(self, steps: int) -> None:
        """Make a batch of so many parts, one after the other."""
        self.gradient_accumulation_steps = self.recipe["gradient_accumulation_steps"] = steps
        self._divide_batch()

    def _record(self) -> None:
        ours = _known() - {f.name for f in fields(TrainingArguments)}
        hidden = {"resume_from_checkpoint", "hub_token", "overwrite", "per_device_train_batch_size"}
        hidden |= {name for name, _ in idle_options(_known(), self)}
        if self.output_dir is not None and self.run_name == Path(self.output_dir).name:
            hidden.add("run_name")  # follows
        resolved = self.to_dict()
        named = sorted((ours | self.given) - hidden)
        self.recipe = {name: resolved[name] for name in named if resolved[name] is not None}


def parse_options(arguments: list[str]) -> DinoDetrTrainingArguments:
    """
    Options of `RECIPE [--option value ...]`; the command line wins.

    Raises:
        ValueError: for an option that does not exist, naming it and the nearest that does; for a value that cannot be,
            and for a file that is no recipe. All in one line.
        FileNotFoundError: if there is no such recipe.
    """
    recipe, *rest = arguments
    path = find_recipe(recipe)
    known, kinds = _known(), _kinds()
    values = read_recipe(path)
    check_names(recipe, values, known)
    said = read_command_line(rest, known, {name for name, kind in kinds.items() if is_switch(kind)})
    check_names("command line", said, known)
    values, said = _read_all(recipe, values, kinds), _read_all("command line", said, kinds)
    merged = merge(values, said)
    for name, deciding in idle_options(values.keys() - said.keys(), _with_defaults(merged)):
        if deciding & said.keys():  # what the recipe says may be idle where the command line decides otherwise
            merged.pop(name, None)
    output_dir = merged.setdefault("output_dir", f"runs/{path.stem}")
    options = DinoDetrTrainingArguments(**merged)
    if output_dir not in (values.get("output_dir"), said.get("output_dir")):
        del options.recipe["output_dir"]
    if {"max_steps", "num_train_epochs"} & said.keys():
        options.forgiven = frozenset(values.keys() - said.keys())
    if options.max_steps > 0:
        check_run_length(options, options.max_steps, options.forgiven)
    return options


@cache
def _known() -> set[str]:
    return {f.name for f in fields(DinoDetrTrainingArguments) if f.init}


@cache
def _kinds() -> dict:
    return get_type_hints(DinoDetrTrainingArguments, include_extras=True)


def _default(option):
    return option.default if option.default_factory is MISSING else option.default_factory()


def _with_defaults(values: dict) -> SimpleNamespace:
    defaults = {f.name: _default(f) for f in fields(DinoDetrTrainingArguments) if f.init}
    return SimpleNamespace(**defaults | values)


def _given(cls, args: tuple, kwargs: dict) -> frozenset[str]:
    """
    Return the names of the options that were said.

    Where a tool gives every one (`dataclasses.replace`, `to_dict` read again, `HfArgumentParser`), those are neither a
    default nor what becomes of one.
    """
    options = [f for f in fields(cls) if f.init]
    values = dict(zip((f.name for f in options), args)) | kwargs
    if len(values) < len(options):
        return frozenset(values)
    settled = _settled_defaults()
    said = {f.name for f in options if values[f.name] not in (_default(f), *settled[f.name])}
    return frozenset(said - {"per_device_train_batch_size"})  # follows from the others


@cache
def _settled_defaults() -> dict[str, tuple]:
    """Return what becomes of the defaults, by name: as it is in an object, and as `to_dict` shows it."""
    options = DinoDetrTrainingArguments(model="a", dataset="a", use_cpu=True)
    shown = options.to_dict()
    settled = {name: (getattr(options, name), shown[name]) for name in _known()}
    return settled | dict.fromkeys(options.given, ())


def _read_all(place: str, values: dict, kinds: dict) -> dict:
    read = {}
    for name, value in values.items():
        try:
            read[name] = read_value(value, kinds[name])
        except ValueError as error:
            raise ValueError(f"{place}: {name}: {error}") from error
    return read
