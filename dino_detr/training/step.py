"""One step of the optimiser: the batches it is made of, and how each goes through the model."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from ..configuration_dino_detr import DinoDetrConfig
from ..denoising import draw_denoising_queries
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..matching import NonFinitePredictions
from ..modeling_dino_detr import DinoDetrObjectDetectionOutput
from ..targets import Targets


class StepCounts(NamedTuple):
    """What a process tells the others of its part of a step."""

    stop: int  # who asked it to stop: see `Preemption.asked`
    max_boxes: int  # in one image
    unreadable: int  # image files that were skipped
    images: int
    boxes: int
    denoised: int  # boxes from which denoising queries are made


@dataclass
class Step:
    """
    All that determines a step of this process besides the weights.

    Args:
        number: counted from 1.
        epoch: at its beginning, in fractions.
        batches: the micro-batches, as `to_model_inputs` makes them.
        max_boxes: in one image of the step, over all processes.
        loss_normalisers: float32 `[2]`, on the CPU, for each part's loss.
        random_state: of torch's generators before the step, by device type.
        losses: what each micro-batch gave so far, on the device.
    """

    number: int
    epoch: float | None
    batches: list[dict[str, Any]]
    max_boxes: int
    loss_normalisers: Tensor
    random_state: dict[str, Tensor] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)

    def run(
        self, model: nn.Module, config: DinoDetrConfig, batch: dict[str, Any]
    ) -> DinoDetrObjectDetectionOutput | None:
        """
        Run a micro-batch, and note what it takes to run the step again: the random state before it, and its losses.

        Returns:
            None, with a loss of NaN noted, if the predictions are not finite.
        """
        device = batch["pixel_values"].device
        if not self.losses:
            self.random_state = random_state(device)
        try:
            outputs = self.forward(model, config, batch)
        except NonFinitePredictions:
            self.losses.append(torch.tensor(torch.nan, device=device))
            return None
        assert outputs.loss is not None
        self.losses.append(outputs.loss.detach())
        return outputs

    def forward(self, model: nn.Module, config: DinoDetrConfig, batch: dict[str, Any]) -> DinoDetrObjectDetectionOutput:
        """
        Return what the model, which has this config, makes of a micro-batch and its denoising queries.

        Raises:
            NonFinitePredictions: if they are not, also by a sharded model, whose own forward pass does not raise.
        """
        targets = Targets.from_labels(batch["labels"], len(batch["noise_seeds"]), batch["pixel_values"].device)
        denoising_queries = draw_denoising_queries(
            targets, config, max_boxes=self.max_boxes, seeds=batch["noise_seeds"]
        )
        outputs = model(
            batch["pixel_values"],
            batch["pixel_mask"],
            labels=targets,
            denoising_queries=denoising_queries,
            loss_normalisers=self.loss_normalisers,
        )
        if isinstance(outputs, NonFinitePredictions):
            raise outputs
        return outputs


def to_model_inputs(batch: dict[str, Any], processor: DinoDetrImageProcessor, device: torch.device) -> dict[str, Any]:
    """Return a batch of `collate` on the device, with `pixel_values` and `pixel_mask` made there of its `images`."""
    others: Any = send_to_device(batch, device)
    images = others.pop("images")
    sizes = torch.stack([label["size"] for label in others["labels"]])
    return {**processor.normalize_padded(images, sizes), **others}


def count_step(batches: list[dict[str, Any]], num_denoising: int, stop: int, unreadable: int) -> StepCounts:
    """Count what is in the micro-batches of this process, of whose images at most `num_denoising` boxes are noised."""
    counts = [len(label["class_labels"]) for batch in batches for label in batch["labels"]]
    return StepCounts(
        stop=stop,
        max_boxes=max(counts),
        unreadable=unreadable,
        images=len(counts),
        boxes=sum(counts),
        denoised=sum(min(count, num_denoising) for count in counts),
    )


def plan_step(number: int, epoch: float | None, batches: list[dict[str, Any]], counts: list[StepCounts]) -> Step:
    """
    Make a step of this process's micro-batches and the counts of all processes.

    Losses are normalised by the boxes of all processes and micro-batches, so that the gradient does not depend on how
    many of these there are. (The Trainer's own count of items is of tokens.)
    """
    boxes = [sum(each.boxes for each in counts), sum(each.denoised for each in counts)]
    parts = len(batches) * len(counts)  # over which the Trainer averages the losses
    return Step(
        number=number,
        epoch=epoch,
        batches=batches,
        max_boxes=max(each.max_boxes for each in counts),
        loss_normalisers=torch.tensor(boxes).float().clamp(min=1) / parts,
    )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators, the CPU's and the device's, by device type. Nothing waits."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned. The state of a device of another type is left out."""
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type])
