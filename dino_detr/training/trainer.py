"""transformers' `Trainer`, taught detection: parameter groups, schedule, loss terms in the log, COCO evaluation."""

import errno
import os
import shutil
import time
from contextlib import closing
from pathlib import Path

import torch
from accelerate.utils import DynamoBackend, broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers import ProgressCallback, Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerState
from transformers.utils import logging

from ..data import category_ids, class_names
from ..data.samples import collate
from ..data.sampling import SizeGroupedSampler
from ..evaluation import CocoDetectionMetric
from ..evaluation.detections import detect, references
from ..matching import NonFinitePredictions
from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..runs.names import AVERAGE, EVALUATION_DUE, FIGURES, TRAINER_STATE_JSON, checkpoint_folder, partial_path
from .checkpoints import delete_oldest, list_files, publish_checkpoint
from .compilation import compile_layers
from .early_stopping import EarlyStopping
from .ema import WeightAverage
from .lock import check_lock
from .memory import peak_memory_mib
from .nonfinite import StepWatch, spoiled_loss
from .optimizer import build_optimizer, build_step_schedule
from .output_dir import checkpoint_size
from .preemption import Preempted, Preemption
from .progress import ProgressBar
from .sharding import gather, is_sharded, load_optimizer, load_weights, own_class, prepare_sharding, whole_parameters
from .step import Step, random_state
from .unreadable import UnreadableImages
from .uploads import Uploads, without_tokens
from .zero_ap import explain_zero_ap

logger = logging.get_logger(__name__)


class _FindBest(TrainerCallback):
    """Looks where the best checkpoint of a run that goes on is."""

    def __init__(self, trainer: "DetectionTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.find_best()


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
        super().__init__(processing_class=processor, data_collator=collate, **kwargs)
        if self.is_fsdp_enabled and self.accelerator.is_fsdp2:
            prepare_sharding(self.model, self.accelerator)
        elif self.is_fsdp_enabled or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise ValueError(
                "FSDP trains on GPUs, as fsdp_version 2: take recipes/accelerate/fsdp2.yaml there, ddp.yaml on a CPU"
            )
        vars(self.model.config).pop("use_cache", None)  # Trainer sets it; it would end up in config.json
        if self.args.torch_compile:  # the layers, not, as accelerate would, everything down to the matcher
            compile_layers(self.model, backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
            self.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(ProgressBar)
        self.ema: WeightAverage | None = None
        self.add_callback(_FindBest(self))
        if self.args.ema_decay is not None:
            self.add_callback(_KeepAverage(self))
        self.early_stopping: EarlyStopping | None = None
        if self.args.early_stopping_patience is not None:
            self.early_stopping = EarlyStopping(self.args.early_stopping_patience)
            self.add_callback(self.early_stopping)
        self.uploads: Uploads | None = None  # of the main process
        if self.args.push_to_hub and self.is_world_process_zero():
            self.uploads = Uploads(self.args)
        self.preemption = Preemption(self.args.output_dir)
        self.add_callback(self.preemption)
        self.processor = processor
        self.model_accepts_loss_kwargs = False  # the loss is normalised by boxes, not by items the Trainer counts
        self.per_class: dict[str, dict[str, float]] = {}
        self.last_detections: tuple[list[dict], list[dict]] | None = None  # of the evaluation at the end, and the truth
        self._step: Step | None = None  # under way
        self._watch = StepWatch(self)
        self._unreadable = UnreadableImages()
        self._cpu_group = None  # of all processes, for numbers that need not wait for a device
        self._terms: dict[str, torch.Tensor] = {}
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    def _get_train_sampler(self, train_dataset=None) -> SizeGroupedSampler:
        samples = self.train_dataset if train_dataset is None else train_dataset
        return SizeGroupedSampler(samples, self.args.total_batch_size)

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        # (samples bring their own seeds)
        getattr(loader, "base_dataloader", loader).worker_init_fn = self.preemption.worker_init_fn
        return loader

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = build_optimizer(
                self.model,
                self.args.learning_rate,
                self.args.weight_decay,
                self.args.backbone_lr_factor,
                self.args.backbone_layer_decay or 1.0,
            )
            for group in self.optimizer.param_groups:
                group["betas"], group["eps"] = (self.args.adam_beta1, self.args.adam_beta2), self.args.adam_epsilon
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None and self.args.lr_decay_steps:
            self.lr_scheduler = build_step_schedule(
                optimizer or self.optimizer,
                num_training_steps,
                self.args.lr_decay_steps,
                self.args.get_warmup_steps(num_training_steps),
            )
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
        """Write a checkpoint into a folder that gets its name when all is there: a kill leaves no half of one."""
        checkpoint = checkpoint_folder(Path(self.args.output_dir), self.state.global_step)
        if self.is_world_process_zero():
            check_lock(checkpoint.parent)
        try:
            self._write_checkpoint(model, partial_path(checkpoint))
        except (OSError, RuntimeError, SafetensorError) as fault:
            if not _disk_is_full(fault, self.args, self.model):
                raise
            shutil.rmtree(partial_path(checkpoint), ignore_errors=True)
            raise OSError(
                errno.ENOSPC,
                f"no room for {checkpoint}: make some and go on with --resume_from_checkpoint latest; the checkpoints "
                "before it are whole",
            ) from fault
        if self.is_world_process_zero():
            publish_checkpoint(checkpoint)
            limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
            delete_oldest(checkpoint.parent, limit, self.state.global_step, best)
            if self.uploads is not None:
                self.uploads.offer(self.state)
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, model, partial: Path) -> None:
        if self.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.store_flos()
        self._save_weights(partial)
        if self.ema is not None:
            with self.ema.applied():
                self._save_weights(partial / AVERAGE)
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
            list_files(partial)

    def _save_weights(self, folder: Path) -> None:
        weights = gather(self.model.state_dict())
        if self.args.should_save:
            with own_class(self.model):
                self._save(str(folder), state_dict=weights)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save as transformers does, which pickles the options too, without their secrets."""
        options = self.args
        self.args = without_tokens(options)
        try:
            super()._save(output_dir, state_dict=state_dict)
        finally:
            self.args = options

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write the same files whether parameters are sharded or not."""
        state = gather(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        # by way of the CPU (transformers 5.17 cannot load on several CPU processes)
        optimizer, scheduler = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_optimizer(self.optimizer, optimizer)
        self.lr_scheduler.load_state_dict(scheduler)

    def _name_best(self) -> None:
        """Note the best checkpoint, on every process: each loads the best weights at the end."""
        best = checkpoint_folder(Path(self.args.output_dir), self.state.best_global_step)
        if self.state.best_global_step and (self.state.best_global_step == self.state.global_step or best.exists()):
            self.state.best_model_checkpoint = str(best)

    def find_best(self) -> None:
        """Find the best checkpoint of a run that goes on: in this folder, which may have been moved, or not at all."""
        self._name_best()
        best = self.state.best_model_checkpoint
        if best is not None and not Path(best).is_dir():
            logger.warning(f"{best}, the best checkpoint so far, is not there any more: the best is looked for anew")
            self.state.best_model_checkpoint = self.state.best_global_step = self.state.best_metric = None

    def _save_state(self, folder: Path) -> None:
        for part in [*self.callback_handler.callbacks, self.control]:
            if isinstance(part, ExportableState):
                self.state.stateful_callbacks[type(part).__name__] = part.state()
        temporary = partial_path(folder / TRAINER_STATE_JSON)
        self.state.save_to_json(str(temporary))
        temporary.replace(folder / TRAINER_STATE_JSON)

    def start_average(self, checkpoint: str | None) -> None:
        """Start the moving average from the current weights, or restore it from `checkpoint/ema`."""
        self.ema = WeightAverage(self.model, self.args.ema_decay)
        if checkpoint is not None:
            folder = Path(checkpoint) / AVERAGE
            if folder.is_dir():  # (else `find_inexact` has said so)
                with self.ema.applied():
                    self._load_from_checkpoint(str(folder))

    @property
    def step_of_weights(self) -> int:
        """After training: the step after which the weights were as they are now."""
        best = self.args.load_best_model_at_end and self.state.best_model_checkpoint
        return self.state.best_global_step if best and self.state.best_global_step else self.state.global_step

    def init_hf_repo(self, *args, **kwargs) -> None:
        """Do nothing: see `Uploads`. (The Trainer's own ends a run where the Hub cannot be reached.)"""

    def push_to_hub(self, *args, **kwargs):
        """Refuse: the Trainer's would upload the state of training and its pickled arguments too."""
        raise NotImplementedError("dino_detr.hub.push_run(run_folder, repo_id) uploads a run")

    def _load_best_model(self):
        best = Path(self.state.best_model_checkpoint)
        self._load_from_checkpoint(str(best if self.args.ema_decay is None else best / AVERAGE))

    def restore_if_finished(self, checkpoint: str) -> bool:
        """
        Whether a run was cut off after its last step; then its weights, the best or the last, are in place.

        An evaluation that was due when it was cut off is made up for first: it may be the one that ends the run.
        """
        self.state = state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_JSON))
        self.find_best()
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
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._waited += time.perf_counter() - started
        unreadable = [fault for batch in batches for fault in batch.pop("unreadable")]
        self._unreadable.name(unreadable)
        batches = [self._normalize(batch) for batch in batches]
        if batches:
            self._step = self._count_boxes(batches, len(unreadable))
        return batches, items

    def _normalize(self, batch: dict) -> dict:
        """What `collate` made, on the device: with its pixels as the model takes them."""
        batch = self._prepare_inputs(batch)
        sizes = torch.stack([label["size"] for label in batch["labels"]])
        return batch | self.processor.normalize_padded(batch["pixel_values"], sizes)

    def _count_boxes(self, batches: list[dict], unreadable: int) -> Step:
        """
        The step of these batches. Its boxes are counted over all processes and accumulated batches, so that its
        gradient does not depend on their number.

        (The Trainer's own count of items is of tokens.)
        """
        counts = [len(label["class_labels"]) for batch in batches for label in batch["labels"]]
        denoised = sum(min(count, self.model.config.num_denoising) for count in counts)
        numbers = [[self.preemption.asked, max(counts), unreadable, len(counts), sum(counts), denoised]]
        numbers = self.gather_numbers(torch.tensor(numbers))
        self.preemption.agreed = int(numbers[:, 0].max())
        self._unreadable.count(*numbers[:, 2:4].sum(0).tolist())
        totals = numbers[:, 4:].sum(0).float().clamp(min=1)
        # the losses of the parts are averaged
        return Step(batches, int(numbers[:, 1].max()), totals / (len(batches) * self.args.world_size))

    def gather_numbers(self, numbers: torch.Tensor) -> torch.Tensor:
        """A CPU tensor `[1, n]` of each process -> `[processes, n]`. No device is waited for."""
        if self.args.world_size == 1:
            return numbers
        if self._cpu_group is None:
            self._cpu_group = torch.distributed.new_group(backend="gloo")
        gathered = [torch.empty_like(numbers) for _ in range(self.args.world_size)]
        torch.distributed.all_gather(gathered, numbers, group=self._cpu_group)
        return torch.cat(gathered)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self._step.losses:
            self._step.random_state = random_state(self.args.device)
        try:
            outputs = self._step.forward(model, self.model.config, inputs)
            self._step.losses.append(outputs.loss.detach())
        except NonFinitePredictions:
            outputs = None
            self._step.losses.append(torch.tensor(torch.nan, device=self.args.device))
        if is_sharded(self.model):
            self._watch.check_predictions(self._step, outputs is not None)
        if outputs is None:
            return spoiled_loss(model, inputs)  # the run ends before the optimiser's step
        for name, term in outputs.loss_dict.items():  # summed on the device: nothing waits
            self._terms[name] = self._terms.get(name, 0) + term.detach()
        self._steps += 1
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._watch.check(self._step, grad_norm)
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to each training line the mean loss terms, seconds per step, share of waiting for data, peak memory."""
        if "loss" in logs and self._steps:
            elapsed = time.perf_counter() - self._since
            logs |= {name: term.item() / self._steps for name, term in self._terms.items()}
            logs["learning_rate_backbone"] = min(group["lr"] for group in self.optimizer.param_groups)
            logs["seconds_per_step"] = elapsed / self._steps * self.args.gradient_accumulation_steps
            logs["data_wait_share"] = self._waited / elapsed
            logs["peak_memory_mib"] = peak_memory_mib()
            logs["unreadable_images"] = self._unreadable.end_interval()
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
        figures = self._score(rows, explain_zero=True, at_end=metric_key_prefix == "best")
        self.per_class = figures["per_class"]
        metrics = {f"{metric_key_prefix}_{name}": figures[name] for name in FIGURES}
        if self.ema is not None and metric_key_prefix == "eval":
            with self.ema.applied():
                figures = self._score(rows)
            metrics |= {f"{metric_key_prefix}_ema_{name}": figures[name] for name in FIGURES}
        self.model.train(was_training)
        metrics[f"{metric_key_prefix}_seconds"] = time.perf_counter() - started
        if self.is_in_train:  # after it, trackers would begin a new run
            self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._reset_log()  # the seconds of evaluation are not those of a step
        return metrics

    def _score(self, rows, explain_zero: bool = False, at_end: bool = False) -> dict:
        """
        What `CocoDetectionMetric` computes, on every process.

        Every process detects on its share of the images, each image once, batched without padding; the fixed-size
        detections are gathered once. With `explain_zero`, an AP of about 0 is explained (see `explain_zero_ap`).

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
            # closing ends its data workers: torch raises at a death wherever the run is then, in a checkpoint too
            with closing(found), whole_parameters(self.model), self.accelerator.autocast():
                while not self.preemption.asked and (detection := next(found, None)) is not None:
                    detections.append(detection)
        except RuntimeError:  # the signal reaches data workers too
            if not self.preemption.asked:
                raise
        asked = [self.preemption.asked]
        if self.args.world_size > 1:
            asked, detections = gather_object(asked), gather_object(detections)
        if any(asked):
            self.preemption.agreed = int(max(asked))
            raise Preempted
        figures = [None]
        if self.is_world_process_zero():
            metric = CocoDetectionMetric(category_ids=category_ids(rows), class_names=class_names(rows))
            truth = references(rows, detections)
            metric.add_batch(predictions=detections, references=truth)
            figures = [metric.compute()]
            if at_end:
                self.last_detections = detections, truth
            if explain_zero:
                folder, ap50 = Path(self.args.output_dir), figures[0]["AP50"]
                warmup = self.args.get_warmup_steps(self.state.max_steps)
                rate = warmup, self.args.learning_rate
                explain_zero_ap(folder, self.state, ap50, detections, truth, rows, self.train_dataset, at_end, *rate)
        if self.args.world_size > 1:
            broadcast_object_list(figures)
        return figures[0]


def _disk_is_full(fault: Exception, options, model: torch.nn.Module) -> bool:
    """torch.save and safetensors do not always say why they failed to write."""
    if getattr(fault, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(fault):
        return True
    return shutil.disk_usage(options.output_dir).free < checkpoint_size(options, model)
