"""transformers' `Trainer`, taught detection: parameter groups, schedule, loss terms in the log, COCO evaluation."""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import ProgressCallback, Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerState
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

from ..data import category_ids, class_names
from ..data.samples import collate
from ..data.sampling import AspectGroupedSampler
from ..denoising import draw_denoising_queries
from ..evaluation import CocoDetectionMetric
from ..evaluation.coco_score import FIGURES
from ..evaluation.detections import detect, references
from ..matching import Targets
from ..modeling_dino_detr import DinoDetrForObjectDetection
from .checkpoints import partial_folder, publish_checkpoint
from .early_stopping import EarlyStopping
from .ema import WeightAverage
from .optimizer import build_optimizer
from .preemption import EVALUATION_DUE, Preempted, Preemption, outlive_first_signal
from .sharding import gather, load_optimizer, load_weights, own_class, prepare_sharding, whole_parameters

try:
    import resource
except ImportError:  # Windows
    resource = None


logger = logging.get_logger(__name__)


class BriefProgress(ProgressCallback):
    """The progress bar with a few figures of each log line; the rest is in the run folder."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = (
            "loss",
            "learning_rate",
            "eval_AP",
            "eval_AP50",
            "eval_ema_AP",
            "eval_seconds",
            "epoch",
            "train_runtime",
        )
        brief = {name: value for name, value in (logs or {}).items() if name in shown}
        super().on_log(args, state, control, logs=brief, **kwargs)


@dataclass
class _StepBoxes:
    """The most boxes in one image of the step, and the normalisers of each part's loss (float32 `[2]`, on the CPU)."""

    most: int
    loss_normalisers: torch.Tensor


class _KeepAverage(TrainerCallback):
    """Starts the trainer's average of the weights when they are in place, and follows them."""

    def __init__(self, trainer: "DetectionTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.start_average(args.resume_from_checkpoint)

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.ema.update()


class DetectionTrainer(Trainer):
    """
    A `Trainer` for `DinoDetrForObjectDetection`.

    Args:
        processor: the image processor; batches are made and evaluated with it.
        train_dataset: `TrainingSamples`.
        eval_dataset: rows as `load_detection_dataset` gives them.
    """

    def __init__(self, processor, **kwargs):
        super().__init__(processing_class=processor, data_collator=partial(collate, processor=processor), **kwargs)
        if self.is_fsdp_enabled and self.accelerator.is_fsdp2:
            prepare_sharding(self.model, self.accelerator)
        elif self.is_fsdp_enabled or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise ValueError(
                "FSDP trains on GPUs, as fsdp_version 2: take recipes/accelerate/fsdp2.yaml there, ddp.yaml on a CPU"
            )
        vars(self.model.config).pop("use_cache", None)  # Trainer sets it; it would end up in config.json
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(BriefProgress)
        self.ema: WeightAverage | None = None
        if self.args.ema_decay is not None:
            self.add_callback(_KeepAverage(self))
        self.early_stopping: EarlyStopping | None = None
        if self.args.early_stopping_patience is not None:
            self.early_stopping = EarlyStopping(self.args.early_stopping_patience)
            self.add_callback(self.early_stopping)
        self.preemption = Preemption(self)
        self.add_callback(self.preemption)
        self.processor = processor
        self.model_accepts_loss_kwargs = False  # the loss is normalised by boxes, not by items the Trainer counts
        self.per_class: dict[str, dict[str, float]] = {}
        self._step_boxes = _StepBoxes(0, torch.ones(2))
        self._cpu_group = None  # of all processes, for numbers that need not wait for a device
        self._terms: dict[str, torch.Tensor] = {}
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    def _get_train_sampler(self, train_dataset=None) -> AspectGroupedSampler:
        samples = self.train_dataset if train_dataset is None else train_dataset
        return AspectGroupedSampler(samples, self.args.total_batch_size)

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        # (samples bring their own seeds)
        getattr(loader, "base_dataloader", loader).worker_init_fn = outlive_first_signal
        return loader

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = build_optimizer(
                self.model, self.args.learning_rate, self.args.weight_decay, self.args.backbone_lr_factor
            )
            for group in self.optimizer.param_groups:
                group["betas"], group["eps"] = (self.args.adam_beta1, self.args.adam_beta2), self.args.adam_epsilon
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None and self.args.lr_decay_steps:
            drops = [step if step >= 1 else step * num_training_steps for step in self.args.lr_decay_steps]
            warmup = self.args.get_warmup_steps(num_training_steps)

            def factor(step: int) -> float:
                warm = 0.001 + 0.999 * step / warmup if step < warmup else 1.0  # as detectron2 warms up
                return warm * 0.1 ** sum(step >= drop for drop in drops)

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """
        Weights by way of `from_pretrained`.

        The Trainer reads the file as it is, but inside the backbone its names are not this version's: those weights
        would stay behind, with no more than a warning.
        """
        model = self.model if model is None else model
        loaded = DinoDetrForObjectDetection.from_pretrained(resume_from_checkpoint, dtype=model.dtype)
        load_weights(model, loaded.state_dict())

    def _save_checkpoint(self, model, trial) -> None:
        """As transformers' own, but in a folder that gets its name when all is there: a kill leaves no half of one."""
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        partial = partial_folder(checkpoint)
        if self.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.store_flos()
        self._save_weights(partial)
        if self.ema is not None:
            with self.ema.applied():
                self._save_weights(partial / "ema")
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(partial))
            self._save_scaler(str(partial))
            self._save_rng_state(str(partial))
        self._name_best()
        if self.is_world_process_zero():
            self._save_state(partial)
            if self.preemption.evaluation_due:
                (partial / EVALUATION_DUE).touch()
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            publish_checkpoint(checkpoint)
            rotate_checkpoints(
                self.args.output_dir, self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True
            )
        self.accelerator.wait_for_everyone()

    def _save_weights(self, folder: Path) -> None:
        weights = gather(self.model.state_dict())
        if self.args.should_save:
            with own_class(self.model):
                self._save(str(folder), state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As transformers', but the same files whether parameters are sharded or not."""
        state = gather(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not (Path(checkpoint) / OPTIMIZER_NAME).exists():  # of save_only_model
            return
        # by way of the CPU (transformers 5.17 cannot load on several CPU processes)
        optimizer, scheduler = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_optimizer(self.optimizer, optimizer)
        self.lr_scheduler.load_state_dict(scheduler)

    def _name_best(self) -> None:
        """On every process: each loads the best weights at the end."""
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and (self.state.best_global_step == self.state.global_step or best.exists()):
            self.state.best_model_checkpoint = str(best)

    def _save_state(self, folder: Path) -> None:
        for part in [*self.callback_handler.callbacks, self.control]:
            if isinstance(part, ExportableState):
                self.state.stateful_callbacks[type(part).__name__] = part.state()
        temporary = folder / ".trainer_state.json.partial"
        self.state.save_to_json(str(temporary))
        temporary.replace(folder / "trainer_state.json")

    def start_average(self, checkpoint: str | None) -> None:
        """Of the weights as they are, or as far as it had come in a checkpoint."""
        self.ema = WeightAverage(self.model, self.args.ema_decay)
        if checkpoint is not None:
            folder = Path(checkpoint) / "ema"
            if folder.is_dir():
                with self.ema.applied():
                    self._load_from_checkpoint(str(folder))
            else:
                logger.warning(f"{checkpoint} has no average of the weights: it starts from these weights")

    def _load_best_model(self):
        best = Path(self.state.best_model_checkpoint)
        self._load_from_checkpoint(str(best if self.args.ema_decay is None else best / "ema"))

    def restore_if_finished(self, checkpoint: str) -> bool:
        """
        Whether a run was cut off after its last step; then its weights, the best or the last, are in place.

        An evaluation that was due when it was cut off is made up for first: it may be the one that ends the run.
        """
        self.state = state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if self.early_stopping is not None:
            self.early_stopping.restore(state)
        self.model.to(self.args.device)
        if (Path(checkpoint) / EVALUATION_DUE).exists():
            self._load_from_checkpoint(checkpoint)
            if self.args.ema_decay is not None:
                self.start_average(checkpoint)
            self.evaluate_late(checkpoint)
        stopped = self.early_stopping is not None and self.early_stopping.exhausted
        if not stopped and state.global_step < (self.args.max_steps if self.args.max_steps > 0 else state.max_steps):
            return False
        if not (self.args.load_best_model_at_end and state.best_model_checkpoint):
            state.best_model_checkpoint = checkpoint
        self._load_best_model()
        return True

    def evaluate_late(self, checkpoint: str) -> None:
        """The evaluation that was due when the checkpoint was saved in haste."""
        self._determine_best_metric(self.evaluate(), trial=None)
        self._name_best()
        if self.is_world_process_zero():
            self._save_state(Path(checkpoint))
            (Path(checkpoint) / EVALUATION_DUE).unlink()
        self.accelerator.wait_for_everyone()

    def get_batch_samples(self, *args, **kwargs):
        started = time.perf_counter()
        batches = super().get_batch_samples(*args, **kwargs)
        self._waited += time.perf_counter() - started
        if batches[0]:
            self._step_boxes = self._count_boxes(batches[0])
        return batches

    def _count_boxes(self, batches: list[dict]) -> "_StepBoxes":
        """
        Over all processes and accumulated batches of a step, so that its gradient does not depend on their number.

        (The Trainer's own count of items is of tokens.)
        """
        counts = [len(label["class_labels"]) for batch in batches for label in batch["labels"]]
        denoised = sum(min(count, self.model.config.num_denoising) for count in counts)
        numbers = torch.tensor([[int(self.preemption.asked), max(counts), sum(counts), denoised]])
        if self.args.world_size > 1:
            if self._cpu_group is None:
                self._cpu_group = torch.distributed.new_group(backend="gloo")
            gathered = [torch.empty_like(numbers) for _ in range(self.args.world_size)]
            torch.distributed.all_gather(gathered, numbers, group=self._cpu_group)
            numbers = torch.cat(gathered)
        self.preemption.agreed = bool(numbers[:, 0].any())
        totals = numbers[:, 2:].sum(0).float().clamp(min=1)
        # the losses of the parts are averaged
        return _StepBoxes(int(numbers[:, 1].max()), totals / (len(batches) * self.args.world_size))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        seeds, config = inputs.pop("noise_seeds"), self.model.config
        denoising_queries = draw_denoising_queries(
            Targets.from_labels(inputs["labels"], len(seeds), inputs["pixel_values"].device),
            config.num_labels,
            config.num_denoising,
            config.label_noise_ratio,
            config.box_noise_scale,
            most=self._step_boxes.most,
            seeds=seeds,
        )
        outputs = model(
            **inputs, denoising_queries=denoising_queries, loss_normalisers=self._step_boxes.loss_normalisers
        )
        for name, term in outputs.loss_dict.items():  # summed on the device: nothing waits
            self._terms[name] = self._terms.get(name, 0) + term.detach()
        self._steps += 1
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to each training line the mean loss terms, seconds per step, share of waiting for data, peak memory."""
        if "loss" in logs and self._steps:
            elapsed = time.perf_counter() - self._since
            logs |= {name: term.item() / self._steps for name, term in self._terms.items()}
            logs["learning_rate_backbone"] = min(group["lr"] for group in self.optimizer.param_groups)
            logs["seconds_per_step"] = elapsed / self._steps * self.args.gradient_accumulation_steps
            logs["data_wait_share"] = self._waited / elapsed
            logs["peak_memory_mib"] = _peak_memory_mib()
            self._reset_log()
        super().log(logs, start_time)

    def _reset_log(self) -> None:
        self._terms, self._steps, self._waited, self._since = {}, 0, 0.0, time.perf_counter()

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        COCO's figures of the model on `eval_dataset`, as `<prefix>_AP`, ...; per class in `self.per_class`. During
        training those of the average of the weights too, if there is one, as `<prefix>_ema_AP`, ...
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        started, was_training = time.perf_counter(), self.model.training
        self.model.eval()
        figures = self._score(rows)
        self.per_class = figures["per_class"]
        metrics = {f"{metric_key_prefix}_{name}": figures[name] for name in FIGURES}
        if self.ema is not None and metric_key_prefix == "eval":
            with self.ema.applied():
                figures = self._score(rows)
            metrics |= {f"{metric_key_prefix}_ema_{name}": figures[name] for name in FIGURES}
        self.model.train(was_training)
        metrics[f"{metric_key_prefix}_seconds"] = time.perf_counter() - started
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._reset_log()  # the seconds of evaluation are not those of a step
        return metrics

    def _score(self, rows) -> dict:
        """
        What `CocoDetectionMetric` computes, on every process.

        Every process detects on its share of the images, each image once, batched without padding; the fixed-size
        detections are gathered once.

        Raises:
            Preempted: if any process was asked to stop meanwhile.
        """
        share = range(self.args.process_index, len(rows), self.args.world_size)
        found = detect(
            self.model,
            self.processor,
            rows,
            share,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
        )
        detections = []
        try:
            with whole_parameters(self.model), self.accelerator.autocast():
                while not self.preemption.asked and (detection := next(found, None)) is not None:
                    detections.append(detection)
        except RuntimeError:  # the signal reaches data workers too
            if not self.preemption.asked:
                raise
        asked = [self.preemption.asked]
        if self.args.world_size > 1:
            asked, detections = gather_object(asked), gather_object(detections)
        if any(asked):
            raise Preempted
        figures = [None]
        if self.is_world_process_zero():
            metric = CocoDetectionMetric(category_ids=category_ids(rows), class_names=class_names(rows))
            metric.add_batch(predictions=detections, references=references(rows))
            figures = [metric.compute()]
        if self.args.world_size > 1:
            broadcast_object_list(figures)
        return figures[0]


def _peak_memory_mib() -> float:
    """Of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if resource is None:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
