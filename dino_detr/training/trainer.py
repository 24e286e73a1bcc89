"""transformers' `Trainer`, taught detection: parameter groups, schedule, loss terms in the log, COCO evaluation."""

import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import ProgressCallback, Trainer

from ..data.samples import TrainingSamples, collate
from ..data.sampling import SizeGroupedSampler
from ..evaluation.evaluate import Evaluation, EvaluationStopped, evaluate
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..runs.names import AVERAGE, EVALUATION_DUE, checkpoint_folder
from .callbacks import EarlyStopping, FindBest
from .checkpointing.files import delete_oldest, written_whole
from .checkpointing.output_dir import checkpoint_size
from .checkpointing.preemption import Preempted, Preemption
from .checkpointing.state import (
    folder_to_leave,
    load_model,
    name_best,
    restore_optimizer,
    save_model,
    save_optimizer,
    save_trainer_state,
)
from .ema import WeightAverage
from .exchange import Exchange
from .guards.nonfinite import FiniteCheck, spoiled_loss
from .guards.unreadable import UnreadableImages
from .guards.zero_ap import explain_zero_ap
from .interval import LogInterval
from .launch import settle_launch
from .memory import peak_memory_mib
from .optimizer import build_optimizer, build_step_schedule
from .options import DinoDetrTrainingArguments
from .progress import ProgressBar
from .sharding import is_sharded, whole_parameters
from .step import Step, StepCounts, count_step, plan_step, to_model_inputs
from .uploads import Uploads


class DetectionTrainer(Trainer):
    """
    A `Trainer` for `DinoDetrForObjectDetection`.

    What it leans on that transformers keeps to itself is listed in `transformers_internals`.

    Args:
        processor: the image processor; batches are made and evaluated with it.
    """

    model: DinoDetrForObjectDetection
    args: DinoDetrTrainingArguments
    train_dataset: TrainingSamples
    eval_dataset: Dataset  # rows as `load_detection_dataset` gives them
    optimizer: Optimizer
    step: Step  # under way

    def __init__(self, processor: DinoDetrImageProcessor, **kwargs: Any):
        super().__init__(processing_class=processor, data_collator=collate, **kwargs)
        self.processor = processor
        self.folder = self.args.run_folder
        self.model_accepts_loss_kwargs = False  # the loss is normalised by boxes, not by items the Trainer counts
        vars(self.model.config).pop("use_cache", None)  # the Trainer sets it, and it would end up in config.json
        settle_launch(self.model, self.args, self.accelerator)
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(ProgressBar)
        self.exchange = Exchange(self.args.world_size)
        self.preemption = Preemption(self.folder)
        self.unreadable = UnreadableImages()
        self.finite_check = FiniteCheck(self.args, self.exchange)
        self.interval = LogInterval()
        decay, patience = self.args.ema_decay, self.args.early_stopping_patience
        self.uploads = Uploads(self.args) if self.args.push_to_hub and self.is_world_process_zero() else None
        self.average = None if decay is None else WeightAverage(decay)
        self.early_stopping = None if patience is None else EarlyStopping(patience)
        for callback in filter(None, (FindBest(), self.average, self.early_stopping, self.preemption)):
            self.add_callback(callback)

    def __repr__(self) -> str:
        train, val = (len(rows) for rows in (self.train_dataset, self.eval_dataset))  # pyright: ignore[reportArgumentType]
        return f"DetectionTrainer({train:,} images to train on, {val:,} to evaluate on, run folder {self.folder})"

    def _get_train_sampler(self, train_dataset: Any = None) -> SizeGroupedSampler:
        return SizeGroupedSampler(self.train_dataset, self.args.total_batch_size)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        loader = super().get_train_dataloader()
        getattr(loader, "base_dataloader", loader).worker_init_fn = self.preemption.worker_init_fn
        return loader

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            self.optimizer = build_optimizer(
                self.model,
                self.args.learning_rate,
                self.args.weight_decay,
                self.args.backbone_lr_factor,
                self.args.backbone_layer_decay or 1.0,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                muon=self.args.muon,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        if self.lr_scheduler is None and self.args.lr_decay_steps:
            drops, warmup = self.args.lr_decay_steps, self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = build_step_schedule(optimizer or self.optimizer, num_training_steps, drops, warmup)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Collect the micro-batches of a step, put them on the device, and plan the step with the other processes."""
        with self.interval.waiting_for_data():
            batches, items = super().get_batch_samples(*args, **kwargs)
        if batches:
            unreadable = [fault for batch in batches for fault in batch.pop("unreadable")]
            self.unreadable.name(unreadable)
            batches = [to_model_inputs(batch, self.processor, self.args.device) for batch in batches]
            own = count_step(batches, self.model.config.num_denoising, self.preemption.asked, len(unreadable))
            counts = [StepCounts(*numbers) for numbers in self.exchange(own)]
            self.preemption.agreed = max(each.stop for each in counts)
            self.unreadable.count(sum(each.unreadable for each in counts), sum(each.images for each in counts))
            self.step = plan_step(self.state.global_step + 1, self.state.epoch, batches, counts)
        return batches, items

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        outputs = self.step.run(model, self.model.config, inputs)
        if is_sharded(self.model):
            self.finite_check.check_predictions(self.step, outputs is not None, self.model, self.optimizer)
        if outputs is None:
            return spoiled_loss(model, inputs)  # the run ends before the optimiser's step
        self.interval.add(outputs.loss_dict or {})
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        """Return the norm of the gradient, and end the run before the optimiser's step if it is not finite."""
        norm: Any = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.finite_check.check(self.step, norm, self.model, self.optimizer)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to each training line the mean loss terms, seconds per step, share of waiting for data, peak memory."""
        if "loss" in logs and self.interval.micro_batches:
            logs |= self.interval.summary(self.args.gradient_accumulation_steps)
            logs["learning_rate_backbone"] = min(group["lr"] for group in self.optimizer.param_groups)
            logs["peak_memory_mib"] = peak_memory_mib()
            logs["unreadable_images"] = self.unreadable.end_interval()
            self.interval.restart()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return COCO's figures as `<prefix>_AP`, ..., and the average's, if there is one, as `<prefix>_ema_AP`, ..."""
        started = time.perf_counter()
        evaluation = self.score(eval_dataset)
        explain_zero_ap(evaluation, self.args, self.state, self.train_dataset)
        metrics = evaluation.metrics(metric_key_prefix)
        if self.average is not None and self.average.started:
            with self.average.applied():
                metrics |= self.score(eval_dataset).metrics(f"{metric_key_prefix}_ema")
        metrics[f"{metric_key_prefix}_seconds"] = time.perf_counter() - started
        if self.is_in_train:  # after it, trackers would begin a new run
            self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.interval.restart()  # the seconds of evaluation are not those of a step
        return metrics

    def score(self, rows: Dataset | None = None) -> Evaluation:
        """
        Evaluate the weights as they are now, on `rows` or the evaluation split. Every process calls this.

        Raises:
            Preempted: if any process was asked to stop meanwhile.
        """
        try:
            with self.accelerator.autocast():
                return evaluate(
                    self.model,
                    self.processor,
                    self.eval_dataset if rows is None else rows,
                    batch_size=self.args.per_device_eval_batch_size,
                    num_workers=self.args.dataloader_num_workers,
                    context=whole_parameters(self.model),
                    stop=lambda: self.preemption.asked,
                )
        except EvaluationStopped as stopped:
            self.preemption.agreed = int(stopped.reason)
            raise Preempted(self.state.global_step, self.preemption.exit_status) from None

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Write all that a run goes on with into a folder that gets its name when all is there."""
        state, main_process = self.state, self.is_world_process_zero()
        checkpoint, size = checkpoint_folder(self.folder, state.global_step), checkpoint_size(self.args, self.model)
        with written_whole(checkpoint, size, main_process, self.accelerator.wait_for_everyone) as partial:
            self.store_flos()
            self.save_model(str(partial))
            if self.average is not None:
                with self.average.applied():
                    self.save_model(str(partial / AVERAGE))
            if not self.args.save_only_model:
                save_optimizer(partial, self.optimizer, self.lr_scheduler, self.args.should_save)
                self._save_scaler(str(partial))
                self._save_rng_state(str(partial))
            name_best(state, self.folder)
            if main_process:
                self.save_notes(partial)
                if self.preemption.evaluation_due:
                    (partial / EVALUATION_DUE).touch()
        if main_process:
            delete_oldest(self.folder, self.args.save_total_limit, state.global_step, state.best_model_checkpoint)
            if self.uploads is not None:
                self.uploads.offer(state)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write weights, configuration, processor, and the options without their secrets. Every process calls this."""
        folder = self.folder if output_dir is None else Path(output_dir)
        save_model(folder, self.model, self.processor, self.args.should_save, self.args)

    def save_notes(self, checkpoint: Path) -> None:
        """Write the Trainer's own state into a checkpoint."""
        save_trainer_state(checkpoint, self.state, [*self.callback_handler.callbacks, self.control])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(Path(resume_from_checkpoint), self.model if model is None else model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _load_best_model(self) -> None:
        load_model(folder_to_leave(Path(str(self.state.best_model_checkpoint)), self.args), self.model)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: see `Uploads`. (The Trainer's own ends a run where the Hub cannot be reached.)"""

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the Trainer's would upload the state of training and its pickled arguments too."""
        raise NotImplementedError("dino_detr.hub.push_run(run_folder, repo_id) uploads a run")
