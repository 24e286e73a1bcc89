"""A step is run again to find the module in which the first value that is not finite appears."""

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ...loss import term_suffixes
from ...matching import NonFinitePredictions
from ...modeling_dino_detr import DinoDetrForObjectDetection
from ...targets import Targets
from ..sharding import alone
from ..step import Step, set_random_state

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Finding:
    """
    The first value that is not finite.

    Args:
        direction: "forward" or "backward".
        module: the module it appeared in, by its name in the model; "" is the detector's own code, the loss included.
        kind: the module's class.
        how: in words.
        micro_batch: which of the step's.
        terms: the terms of the loss that are not finite, in the order in which the network makes what they judge.
        weights: those that are not finite before the step.
    """

    direction: str
    module: str
    kind: str
    how: str
    micro_batch: int
    terms: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)


def find_nonfinite(model: DinoDetrForObjectDetection, step: Step, precision: str) -> Finding | None:
    """
    Run a step again, forward and backward, and look at what every module takes and gives.

    Each process runs its own part of a sharded model's step; all must call this. The gradients of the model are lost.
    In fp16 they are not looked at: where they overflow, the loss is scaled down.

    Args:
        model: with the weights the step began with, in training mode, where the step's batches are.
        precision: "fp32", "bf16" or "fp16": under which autocast.

    Returns:
        None if all is finite.
    """
    device = step.batches[0]["pixel_values"].device
    set_random_state(step.random_state, device)
    model.zero_grad(set_to_none=True)
    with alone(model):
        finding = _find_in_batches(model, step, precision)
        model.zero_grad(set_to_none=True)
    return finding


def _find_in_batches(model: DinoDetrForObjectDetection, step: Step, precision: str) -> Finding | None:
    for index, batch in enumerate(step.batches):
        with _Trace(model, index) as trace:
            terms = trace.run(step, batch, precision)
        if (finding := trace.finding) is not None:
            finding.terms = sorted(terms, key=_place_in_network)
            # (no state dict: of a sharded model that has shards)
            weights = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
            finding.weights = [name for name, weight in weights if not _finite(weight)]
            return finding
    return None


@dataclass
class _Call:
    """A module at work, the call that called it, and whether all it was given is finite."""

    module: nn.Module
    caller: "_Call | None"
    finite_inputs: bool


class _Trace:
    """Hooks on every module, for as long as the context lasts, and the first value they see that is not finite."""

    def __init__(self, model: DinoDetrForObjectDetection, micro_batch: int):
        self.model, self.micro_batch = model, micro_batch
        self.names = {module: name for name, module in model.named_modules()}
        self.calls: list[_Call] = []
        self.finding: Finding | None = None

    def __enter__(self) -> "_Trace":
        self.handles = []
        for module in self.names:
            self.handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self.handles.append(module.register_forward_hook(self._leave))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def run(self, step: Step, batch: dict, precision: str) -> list[str]:
        """Forward and, if that is finite, backward. Gives the names of the loss terms that are not finite."""
        device_type = batch["pixel_values"].device.type
        try:
            with torch.autocast(device_type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
                outputs = step.forward(self.model, self.model.config, batch)
        except NonFinitePredictions as error:
            self._note("forward", self.model, "the predictions are not finite, though the outputs of all modules are")
            suffixes = term_suffixes(len(error.finite_logits))
            terms = ["loss_class" + suffix for suffix, finite in zip(suffixes, error.finite_logits) if not finite]
            for suffix, finite in zip(suffixes, error.finite_boxes):
                terms += [] if finite else ["loss_bbox" + suffix, "loss_giou" + suffix]
            return terms
        assert outputs.loss is not None and outputs.loss_dict is not None
        if self.finding is None and precision != "fp16":
            (outputs.loss / len(step.batches)).backward()
            self._look_at_gradients()
        return [name for name, term in outputs.loss_dict.items() if not _finite(term)]

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        call = _Call(module, self.calls[-1] if self.calls else None, all(map(_finite, tree_leaves((args, kwargs)))))
        self.calls.append(call)

        def gradient_of_input(gradient: Tensor) -> None:
            if not _finite(gradient):
                self._note("backward", module, "the gradient of its input is not finite, though that of its output is")

        def watched(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.requires_grad or not torch.is_grad_enabled():
                return value
            alias = value.view_as(value)  # others take the same tensor: each has its own part in the gradient
            alias.register_hook(gradient_of_input)
            return alias

        return tree_map(watched, (args, kwargs))

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        call = self.calls.pop()

        def gradient_of_output(gradient: Tensor) -> None:
            if not _finite(gradient):
                caller = self.model if call.caller is None else call.caller.module
                how = f"the gradient that reaches the output of {self.names[module]} is not finite"
                self._note("backward", caller, how)

        for value in tree_leaves(output):
            if not _finite(value):
                self._note_output(call)
            if isinstance(value, Tensor) and value.requires_grad:
                value.register_hook(gradient_of_output)

    def _note_output(self, call: _Call) -> None:
        if call.finite_inputs:
            self._note("forward", call.module, "its output is not finite, though its input is")
            return
        first = call
        while call.caller is not None and not call.finite_inputs:
            first, call = call, call.caller
        if call.finite_inputs:
            how = f"what it gives to {self.names[first.module]} is not finite, though its input is"
            self._note("forward", call.module, how)
        else:
            self._note("forward", call.module, "the images or boxes it is given are not finite")

    def _look_at_gradients(self) -> None:
        """Look at the weights' gradients, last modules first, where no module's inputs and outputs had a bad one."""
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        for name, gradient in reversed(gradients.items()):
            if not _finite(gradient):
                self._note_weight(name, f"the gradient of {name} is not finite")
        if not _finite(torch.nn.utils.get_total_norm(list(gradients.values()))):
            name = max(gradients, key=lambda name: gradients[name].abs().max().item())
            self._note_weight(name, f"all gradients are finite but their norm is not; that of {name} is the largest")

    def _note_weight(self, name: str, how: str) -> None:
        self._note("backward", self.model.get_submodule(name.rpartition(".")[0]), how)

    def _note(self, direction: str, module: nn.Module, how: str) -> None:
        if self.finding is None:
            self.finding = Finding(direction, self.names[module], type(module).__name__, how, self.micro_batch)


def _finite(value: object) -> bool:
    tensor = value.boxes if isinstance(value, Targets) else value
    return not isinstance(tensor, Tensor) or not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _place_in_network(term: str) -> float:
    """The encoder's head, then the decoder's layers, of which the last has no number."""
    if term.endswith("_enc"):
        return -1
    number = re.search(r"_(\d+)$", term)
    return int(number[1]) if number else float("inf")
