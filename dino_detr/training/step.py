"""One step of the optimiser: the batches it is made of, and how each goes through the model."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..denoising import draw_denoising_queries
from ..matching import NonFinitePredictions
from ..modeling_dino_detr import DinoDetrObjectDetectionOutput
from ..targets import Targets


@dataclass
class Step:
    """
    All that determines a step of this process besides the weights.

    Args:
        batches: the micro-batches, as `collate` makes them, but with pixels as the model takes them.
        most_boxes: of one image of the step, over all processes.
        loss_normalisers: float32 `[2]`, on the CPU, for each part's loss.
        random_state: of torch's generators before the step, by device type.
        losses: what each micro-batch gave so far, on the device.
    """

    batches: list[dict]
    most_boxes: int
    loss_normalisers: Tensor
    random_state: dict[str, Tensor] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)

    def forward(self, model, config, batch: dict) -> DinoDetrObjectDetectionOutput:
        """
        A micro-batch with its denoising queries through the model, which has this config.

        Raises:
            NonFinitePredictions: if they are not, also by a sharded model, whose own forward pass does not raise.
        """
        targets = Targets.from_labels(batch["labels"], len(batch["noise_seeds"]), batch["pixel_values"].device)
        denoising_queries = draw_denoising_queries(
            targets, config, max_boxes=self.most_boxes, seeds=batch["noise_seeds"]
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


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators, the CPU's and the device's, by device type. Nothing waits."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """What `random_state` gave; that of a device of another type is left out."""
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type])
