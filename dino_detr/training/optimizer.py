"""The recipe's parameter groups."""

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, learning_rate: float = 1e-4, weight_decay: float = 1e-4, backbone_lr_factor: float = 0.1
) -> torch.optim.AdamW:
    """
    AdamW (betas 0.9 and 0.999, eps 1e-8) over the trainable parameters, grouped as the reference groups them.

    The backbone, if trained, and the pyramid learn at `learning_rate * backbone_lr_factor`; `nn.LayerNorm` and
    `nn.GroupNorm` are not decayed, everything else is, the pyramid's channels-first norms, biases and embeddings
    included.

    Args:
        model: a `DinoDetrForObjectDetection` or `DinoDetrModel`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for module_name, module in model.named_modules():
        slow = bool({"backbone", "pyramid"} & set(module_name.split(".")))
        decayed = not isinstance(module, (nn.LayerNorm, nn.GroupNorm))
        parameters = [p for p in module.parameters(recurse=False) if p.requires_grad]
        groups.setdefault((slow, decayed), []).extend(parameters)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": learning_rate * (backbone_lr_factor if slow else 1.0),
                "weight_decay": weight_decay if decayed else 0.0,
            }
            for (slow, decayed), parameters in groups.items()
            if parameters
        ]
    )
