"""A loss or gradient that is not finite ends a run with where it came from, and leaves what runs the step again."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .. import __version__
from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..runs.names import CONFIG_JSON, NONFINITE, REPORT_JSON, partial_path
from .sharding import gather, is_sharded, own_class
from .step import Step
from .trace import find_nonfinite

INPUTS = "inputs.safetensors"


class NonFinite(Exception):
    """A step in which a loss or gradient is not finite; the weights are those from before it."""


class StepWatch:
    """
    Looks at the losses and the gradient norm of each step before the optimiser does, once.

    Args:
        trainer: a `DetectionTrainer`.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def check(self, step: Step, gradient_norm: Tensor | float) -> None:
        """
        Check losses and gradient on every process, before the optimiser's step.

        Raises:
            NonFinite: on every process if the numbers of any are not finite. Those whose own are not leave a dump.
        """
        numbers = [torch.stack(step.losses).sum()]
        if self.trainer.accelerator.mixed_precision != "fp16":  # there the scaler skips steps whose gradients overflow
            numbers.append(torch.as_tensor(gradient_norm, device=numbers[0].device))
        bad = not torch.stack(numbers).isfinite().all().item()  # the step's one wait for the device
        if any(self._of_all(bad)):
            raise NonFinite(self._explain(step, float(gradient_norm)))

    def check_predictions(self, step: Step, finite: bool) -> None:
        """
        Agree after the forward pass of a sharded model: its backward pass needs all processes.

        Raises:
            NonFinite: on every process if the predictions of any are not finite.
        """
        if not all(self._of_all(finite)):
            raise NonFinite(self._explain(step, math.nan))

    def _explain(self, step: Step, gradient_norm: float) -> str:
        report = self._report(step, gradient_norm)
        model = self.trainer.model
        weights = gather(model.state_dict()) if is_sharded(model) else None  # now, while all take part
        try:
            finding = find_nonfinite(model, step, report["precision"])
            report |= asdict(finding) if finding else {}
        except Exception as fault:  # whatever it is must not hide why the run stopped
            report["how"] = f"unknown, because the step could not be run again: {fault!r}"
        found = self._of_all("how" in report)  # gradients are averaged: those of one process spoil those of all
        if found[report["process"]] or (report["process"] == 0 and not any(found)):
            message = self._dump(step, report, weights)
        else:
            culprits = ", ".join(str(process) for process, own in enumerate(found) if own) or "0"
            message = f"process {report['process']} stopped too: what is not finite is described by process {culprits}"
        self._of_all(True)  # launchers end the others when the first is gone
        return message

    def _dump(self, step: Step, report: dict, weights: dict[str, Tensor] | None) -> str:
        try:
            dump = write_dump(Path(self.trainer.args.output_dir), self.trainer.model, step, report, weights)
            last = [f"  dump       {dump}", f"Run the step again, anywhere: dino-detr replay {dump}"]
        except Exception as fault:  # a full disk, say
            last = [f"  dump       could not be written: {fault}"]
        advice = ["bf16 instead of fp16"] if report["precision"] == "fp16" else []
        advice += ["a lower learning_rate or more warmup_steps", "a look at these images"]
        first = "stopped before the weights changed: the loss or its gradient is not finite"
        return "\n".join([first, *describe(report), *last, f"What may help: {', '.join(advice)}."])

    def _report(self, step: Step, gradient_norm: float) -> dict:
        trainer = self.trainer
        device = trainer.args.device
        return {
            "step": trainer.state.global_step + 1,
            "epoch": trainer.state.epoch,
            "process": trainer.args.process_index,
            "processes": trainer.args.world_size,
            "precision": {"no": "fp32"}.get(trainer.accelerator.mixed_precision, trainer.accelerator.mixed_precision),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "losses": [str(loss.item()) for loss in step.losses],  # JSON has no infinity
            "gradient_norm": str(gradient_norm),
            "learning_rates": sorted({group["lr"] for group in trainer.optimizer.param_groups}),
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
            "most_boxes": step.most_boxes,
            "image_ids": [[int(label["image_id"]) for label in batch["labels"]] for batch in step.batches],
            "versions": {"dino-detr": __version__} | {name: version(name) for name in ("torch", "transformers")},
        }

    def _of_all(self, value: bool) -> list[bool]:
        """What each process says, on all of them, when all have said it."""
        return self.trainer.gather_numbers(torch.tensor([[int(value)]])).flatten().bool().tolist()


def spoiled_loss(model, batch: dict) -> Tensor:
    """
    NaN, with NaN for gradients: of a forward pass that ended without a loss.

    With it the step goes on to its end, where all processes meet; without it they would wait for these gradients.
    """
    if isinstance(model, DistributedDataParallel):
        model.broadcast_buffers = False  # was done in the pass that ended
        model(batch["pixel_values"])  # it reduces gradients only after a forward pass
    return math.nan * sum(p.sum() for p in model.parameters() if p.requires_grad)


def write_dump(
    run_folder: Path,
    model: DinoDetrForObjectDetection,
    step: Step,
    report: dict,
    weights: dict[str, Tensor] | None = None,
) -> Path:
    """
    What `replay` needs, in a folder of its own: the model, `inputs.safetensors` and `report.json`.

    It gets its name when all of it is written. One that is there already stays. Of a sharded model the whole `weights`
    are wanted, which one process alone cannot gather.

    Returns:
        `<run_folder>/nonfinite/step-<N>`, with `-rank-<r>` where there are several processes.
    """
    name = f"step-{report['step']}" + (f"-rank-{report['process']}" if report["processes"] > 1 else "")
    folder, number = run_folder / NONFINITE / name, 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    partial = partial_path(folder)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with own_class(model), _saved_by_any_process(model):
            model.save_pretrained(partial, state_dict=weights)
        tensors = {"loss_normalisers": step.loss_normalisers}
        tensors |= {f"random_state.{device}": state for device, state in step.random_state.items()}
        for index, batch in enumerate(step.batches):
            seeds = torch.tensor(batch["noise_seeds"])
            tensors |= _flatten({**batch, "noise_seeds": seeds}, f"batches.{index}")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / INPUTS)
        (partial / REPORT_JSON).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


@contextmanager
def _saved_by_any_process(model: DinoDetrForObjectDetection) -> Iterator[None]:
    """Inside this context `save_pretrained` writes on every process; transformers lets only the first of several."""
    model.should_save_on_this_rank = lambda is_main_process: True
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def read_dump(dump: Path, device: torch.device) -> tuple[DinoDetrForObjectDetection, Step, dict]:
    """
    The model in training mode, the step and the report of a dump.

    Raises:
        ValueError: naming the file that is missing or damaged.
    """
    for name in (REPORT_JSON, INPUTS, CONFIG_JSON, "model.safetensors"):
        if not (dump / name).is_file():
            raise ValueError(f"{dump} is not a whole dump of a step: it has no {name}")
    try:
        report = json.loads((dump / REPORT_JSON).read_text(encoding="utf-8"))
    except ValueError as fault:
        raise ValueError(f"{dump / REPORT_JSON} is damaged: {fault}") from fault
    try:
        inputs = load_file(dump / INPUTS)
    except SafetensorError as fault:
        raise ValueError(f"{dump / INPUTS} is damaged: {fault}") from fault
    try:
        model = DinoDetrForObjectDetection.from_pretrained(dump)
    except SafetensorError as fault:
        raise ValueError(f"{dump / 'model.safetensors'} is damaged: {fault}") from fault
    tensors = _unflatten(inputs)
    batches = [
        {**_to(batch, device), "noise_seeds": batch["noise_seeds"].tolist()}
        for batch in (tensors["batches"][str(index)] for index in range(len(tensors["batches"])))
    ]
    for batch in batches:
        batch["labels"] = [batch["labels"][str(index)] for index in range(len(batch["labels"]))]
    if report["gradient_checkpointing"]:
        # (later versions have another name for it)
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    step = Step(batches, report["most_boxes"], tensors["loss_normalisers"], tensors["random_state"])
    return model.train().to(device), step, report


def replay(dump: Path, device: torch.device) -> tuple[bool, str]:
    """
    Run the step of a dump again, as the run did to find the module.

    Returns:
        (whether it is finite this time, what there is to say)

    Raises:
        ValueError: if the dump is not whole.
    """
    model, step, report = read_dump(dump, device)
    finding = find_nonfinite(model, step, report["precision"])
    if finding is None:
        return True, (
            f"step {report['step']} of {dump} is finite when it is run on {device.type} ({report['precision']}): loss, "
            f"gradients and what every module gives. It was not on {report['device']}."
        )
    return False, "\n".join([f"{dump} is not finite again", *describe(report | asdict(finding))])


def describe(report: dict) -> list[str]:
    """The lines of a report: step, terms of the loss, module, images, precision."""
    found = "module" in report
    terms = (_some(report["terms"]) or "all are finite") if found else "unknown"
    lines = [f"  step       {report['step']}", f"  loss term  {terms}"]
    if found:
        lines.append(
            f"  module     {report['module'] or 'the detector itself'} ({report['kind']}), {report['direction']}:"
        )
        lines.append(f"             {report['how']}")
    else:
        lines.append(f"  module     {report.get('how', 'unknown: the step is finite when it is run again')}")
    if report.get("weights"):
        lines.append(f"  weights    not finite before the step: {_some(report['weights'])}")
    batches = report["image_ids"]
    images = batches[report["micro_batch"]] if found else [image for batch in batches for image in batch]
    lines.append(f"  images     {', '.join(map(str, images))}")
    return [*lines, f"  precision  {report['precision']}"]


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _flatten(value, name: str) -> dict[str, Tensor]:
    """Nested lists and mappings of tensors as one mapping, names joined with dots."""
    if isinstance(value, Tensor):
        return {name: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {path: tensor for key, item in items for path, tensor in _flatten(item, f"{name}.{key}").items()}


def _unflatten(tensors: dict[str, Tensor]) -> dict:
    """Nested mappings of what `_flatten` gave; the places of a list are keys."""
    nested = {}
    for path, tensor in tensors.items():
        *outer, last = path.split(".")
        place = nested
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = tensor
    return nested


def _to(value, device: torch.device):
    return {key: _to(item, device) for key, item in value.items()} if isinstance(value, dict) else value.to(device)
