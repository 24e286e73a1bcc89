"""A loss or gradient that is not finite ends a run with where it came from, and leaves what runs the step again."""

import math
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ... import __version__
from ...modeling_dino_detr import DinoDetrForObjectDetection
from ..adapters import has_adapters, merge_weights
from ..exchange import Exchange
from ..options import DinoDetrTrainingArguments
from ..precision import precision_name
from ..sharding import full_state_dict, is_sharded
from ..step import Step
from .dump import describe, write_dump
from .trace import find_nonfinite


class NonFinite(Exception):
    """A step in which a loss or gradient is not finite. The weights are those from before it."""


class FiniteCheck:
    """
    Looks at the losses and the gradient norm of each step before the optimiser does, once.

    Args:
        options: of the run.
        exchange: with the other processes.
    """

    def __init__(self, options: DinoDetrTrainingArguments, exchange: Exchange):
        self.options, self.exchange = options, exchange

    def check(
        self,
        step: Step,
        gradient_norm: Tensor | float,
        model: DinoDetrForObjectDetection,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """
        Check losses and gradient on every process, before the optimiser's step.

        Raises:
            NonFinite: on every process if the numbers of any are not finite. Those whose own are not leave a dump.
        """
        numbers = [torch.stack(step.losses).sum()]
        if not self.options.fp16:  # there the scaler skips steps whose gradients overflow
            numbers.append(torch.as_tensor(gradient_norm, device=numbers[0].device))
        bad = not torch.stack(numbers).isfinite().all().item()  # the step's one wait for the device
        if any(self._ask_all(bad)):
            raise NonFinite(self._explain(step, float(gradient_norm), model, optimizer))

    def check_predictions(
        self, step: Step, finite: bool, model: DinoDetrForObjectDetection, optimizer: torch.optim.Optimizer
    ) -> None:
        """
        Agree after the forward pass of a sharded model: its backward pass needs all processes.

        Raises:
            NonFinite: on every process if the predictions of any are not finite.
        """
        if not all(self._ask_all(finite)):
            raise NonFinite(self._explain(step, math.nan, model, optimizer))

    def _explain(
        self, step: Step, gradient_norm: float, model: DinoDetrForObjectDetection, optimizer: torch.optim.Optimizer
    ) -> str:
        report = self._report(step, gradient_norm, optimizer)
        weights = None
        if is_sharded(model) or has_adapters(model):
            weights = merge_weights(model, full_state_dict(model.state_dict()))  # now, while all take part
        try:
            finding = find_nonfinite(model, step, report["precision"])
            report |= asdict(finding) if finding else {}
        except Exception as fault:  # whatever it is must not hide why the run stopped
            report["how"] = f"unknown, because the step could not be run again: {fault!r}"
        found = self._ask_all("how" in report)  # gradients are averaged: those of one process spoil those of all
        if found[report["process"]] or (report["process"] == 0 and not any(found)):
            message = self._dump(step, report, model, weights)
        else:
            culprits = ", ".join(str(process) for process, own in enumerate(found) if own) or "0"
            message = f"process {report['process']} stopped too: what is not finite is described by process {culprits}"
        self._ask_all(True)  # launchers end the others when the first is gone
        return message

    def _dump(
        self,
        step: Step,
        report: dict[str, Any],
        model: DinoDetrForObjectDetection,
        weights: dict[str, Tensor] | None,
    ) -> str:
        try:
            dump = write_dump(self.options.run_folder, model, step, report, weights)
            last = [f"  dump       {dump}", f"Run the step again, anywhere: dino-detr replay {dump}"]
        except Exception as fault:  # a full disk, say
            last = [f"  dump       could not be written: {fault}"]
        advice = ["bf16 instead of fp16"] if report["precision"] == "fp16" else []
        advice += ["a lower learning_rate or more warmup_steps", "a look at these images"]
        first = "stopped before the weights changed: the loss or its gradient is not finite"
        return "\n".join([first, *describe(report), *last, f"What may help: {', '.join(advice)}."])

    def _report(self, step: Step, gradient_norm: float, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        options = self.options
        precision = precision_name(options)
        on_gpu = options.device.type == "cuda"
        return {
            "step": step.number,
            "epoch": step.epoch,
            "process": options.process_index,
            "processes": options.world_size,
            "precision": "fp32" if precision == "float32" else precision,
            "device": torch.cuda.get_device_name(options.device) if on_gpu else options.device.type,
            "losses": [str(loss.item()) for loss in step.losses],  # JSON has no infinity
            "gradient_norm": str(gradient_norm),
            "learning_rates": sorted({group["lr"] for group in optimizer.param_groups}),
            "gradient_checkpointing": options.gradient_checkpointing,
            "most_boxes": step.max_boxes,
            "image_ids": [[int(label["image_id"]) for label in batch["labels"]] for batch in step.batches],
            "versions": {"dino-detr": __version__} | {name: version(name) for name in ("torch", "transformers")},
        }

    def _ask_all(self, own: bool) -> list[bool]:
        """Return what every process found, by rank, when all have said it."""
        return [bool(said) for (said,) in self.exchange([int(own)])]


def spoiled_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """
    Return NaN, with NaN for gradients, as the loss of a forward pass that ended without one.

    With it the step goes on to its end, where all processes meet. Without it they would wait for these gradients.
    """
    if isinstance(model, DistributedDataParallel):
        model.broadcast_buffers = False  # was done in the pass that ended
        model(batch["pixel_values"])  # it reduces gradients only after a forward pass
    return math.nan * sum((p.sum() for p in model.parameters() if p.requires_grad), torch.zeros(()))
