"""Muon for the matrices of the layers, AdamW for the rest, as one optimiser."""

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

_HEADS = ("class_embed", "bbox_embed")


class MuonAndAdamW(Optimizer):
    """
    Two optimisers that step together.

    To schedulers and checkpoints they are one: it has the parameter groups and the state of both.
    """

    def __init__(self, muon: Muon, adamw: AdamW):
        self._parts: tuple[Optimizer, ...] = (muon, adamw)
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()  # loading makes new groups

    def _share(self) -> None:
        """Let the parts have these groups and this state."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


def muon_matrices(model: nn.Module) -> set[Tensor]:
    """
    Return what Muon suits: the trained weights of linear layers (Keller Jordan, "Muon", 2024).

    Embeddings are left out as there, and so are the heads, whose outputs are no hidden features, and adapters.
    """
    return {
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.weight.requires_grad
        and not set(_HEADS) & set(name.split("."))
        and ".lora_" not in name
    }
