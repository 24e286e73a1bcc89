"""A step in a folder of its own, from which it is run again anywhere."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from ...modeling_dino_detr import DinoDetrForObjectDetection
from ...runs.names import CONFIG_JSON, NONFINITE, REPORT_JSON, partial_path
from ..sharding import unsharded_class
from ..step import Step
from .trace import find_nonfinite

INPUTS = "inputs.safetensors"


def write_dump(
    run_folder: Path,
    model: DinoDetrForObjectDetection,
    step: Step,
    report: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
) -> Path:
    """
    Write what `replay` needs into a folder of its own: the model, `inputs.safetensors` and `report.json`.

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
        with unsharded_class(model), _saved_by_any_process(model):
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
    """Inside this context `save_pretrained` writes on every process. transformers lets only the first of several."""
    model.should_save_on_this_rank = lambda is_main_process: True
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def read_dump(dump: Path, device: torch.device) -> tuple[DinoDetrForObjectDetection, Step, dict[str, Any]]:
    """
    Return the model of a dump in training mode, its step and its report.

    Raises:
        ValueError: naming the file that is missing or damaged.
    """
    for name in (REPORT_JSON, INPUTS, CONFIG_JSON, SAFE_WEIGHTS_NAME):
        if not (dump / name).is_file():
            raise ValueError(f"{dump} is not a whole dump of a step: it has no {name}")
    with _naming_damage(dump / REPORT_JSON, ValueError):
        report = json.loads((dump / REPORT_JSON).read_text(encoding="utf-8"))
    with _naming_damage(dump / INPUTS, SafetensorError):
        tensors = _nest(load_file(dump / INPUTS))
    with _naming_damage(dump / SAFE_WEIGHTS_NAME, SafetensorError):
        model = DinoDetrForObjectDetection.from_pretrained(dump)
    if report["gradient_checkpointing"]:
        # (later versions have another name for it)
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    step = Step(
        number=report["step"],
        epoch=report.get("epoch"),
        batches=[_batch_from_tensors(batch, device) for batch in _in_order(tensors["batches"])],
        max_boxes=report["most_boxes"],
        loss_normalisers=tensors["loss_normalisers"],
        random_state=tensors["random_state"],
    )
    return model.train().to(device), step, report


@contextmanager
def _naming_damage(path: Path, kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as fault:
        raise ValueError(f"{path} is damaged: {fault}") from fault


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


def describe(report: dict[str, Any]) -> list[str]:
    """Return the lines of a report: step, terms of the loss, module, images, precision."""
    found = "module" in report
    terms = (_list_names(report["terms"]) or "all are finite") if found else "unknown"
    lines = [f"  step       {report['step']}", f"  loss term  {terms}"]
    if found:
        lines.append(
            f"  module     {report['module'] or 'the detector itself'} ({report['kind']}), {report['direction']}:"
        )
        lines.append(f"             {report['how']}")
    else:
        lines.append(f"  module     {report.get('how', 'unknown: the step is finite when it is run again')}")
    if report.get("weights"):
        lines.append(f"  weights    not finite before the step: {_list_names(report['weights'])}")
    batches = report["image_ids"]
    images = batches[report["micro_batch"]] if found else [image for batch in batches for image in batch]
    lines.append(f"  images     {', '.join(map(str, images))}")
    return [*lines, f"  precision  {report['precision']}"]


def _list_names(names: list[str], at_most: int = 4) -> str:
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


def _flatten(value: Any, name: str) -> dict[str, Tensor]:
    """Return nested lists and mappings of tensors as one mapping, names joined with dots."""
    if isinstance(value, Tensor):
        return {name: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {path: tensor for key, item in items for path, tensor in _flatten(item, f"{name}.{key}").items()}


def _nest(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return nested mappings of what `_flatten` gave. The positions in a list are keys."""
    nested: dict[str, Any] = {}
    for path, tensor in tensors.items():
        *outer, last = path.split(".")
        inner = nested
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = tensor
    return nested


def _in_order(items: dict[str, Any]) -> list[Any]:
    """Return a list of which `_nest` made a mapping."""
    return [items[str(index)] for index in range(len(items))]


def _batch_from_tensors(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    seeds = batch["noise_seeds"].tolist()
    tensors: Any = send_to_device(batch, device)
    return {**tensors, "noise_seeds": seeds, "labels": _in_order(tensors["labels"])}
