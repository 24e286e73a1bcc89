"""The recipe's parameter groups and schedule."""

from typing import Any

import torch
from torch import nn

from .memory import keep_freed_memory


def build_optimizer(
    model: nn.Module,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-4,
    backbone_lr_factor: float = 0.1,
    backbone_layer_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """
    Build AdamW over the trainable parameters, grouped as the reference groups them.

    The backbone, if trained, and the pyramid learn at `learning_rate * backbone_lr_factor`; `nn.LayerNorm` and
    `nn.GroupNorm` are not decayed, everything else is, the pyramid's channels-first norms, biases and embeddings
    included.

    If the model is on a CPU, this process keeps from now on what it frees, which makes steps faster (see
    `keep_freed_memory`).

    Args:
        model: a `DinoDetrForObjectDetection` or `DinoDetrModel`.
        backbone_layer_decay: 0..1; block `i` of the backbone's `n`, counted from 1, learns slower by a further
            `backbone_layer_decay ** (n + 1 - i)`, the embeddings as block 0 (ViTDet, arXiv 2203.16527, appendix;
            detectron2's `get_vit_lr_decay_rate`).
    """
    if next(model.parameters()).device.type == "cpu":
        keep_freed_memory()
    detector: Any = getattr(model, "model", model)
    depth_factors = _depth_factors(detector.backbone.model, backbone_layer_decay) if backbone_layer_decay != 1 else {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for module_name, module in model.named_modules():
        slow = bool({"backbone", "pyramid"} & set(module_name.split(".")))
        decayed = not isinstance(module, (nn.LayerNorm, nn.GroupNorm))
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                factor = (backbone_lr_factor if slow else 1.0) * depth_factors.get(parameter, 1.0)
                groups.setdefault((factor, decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": learning_rate * factor, "weight_decay": weight_decay if decayed else 0.0}
            for (factor, decayed), parameters in groups.items()
        ],
        betas=betas,
        eps=eps,
        fused=True,
    )


def build_step_schedule(
    optimizer: torch.optim.Optimizer, num_training_steps: int, lr_decay_steps: list[float], warmup_steps: int = 0
) -> torch.optim.lr_scheduler.LambdaLR:
    """
    Divide every group's rate by ten at each of `lr_decay_steps`. Values below 1 are fractions of `num_training_steps`.
    Over `warmup_steps` the rate rises from a thousandth (detectron2's `WarmupParamScheduler`).
    """
    drops = [step if step >= 1 else step * num_training_steps for step in lr_decay_steps]

    def factor(step: int) -> float:
        warm = 0.001 + 0.999 * step / warmup_steps if step < warmup_steps else 1.0
        return warm * 0.1 ** sum(step >= drop for drop in drops)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _depth_factors(vit: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Return factors by parameter: what stands before the blocks is their embeddings, what stands after the norm."""
    containers = [module for module in vit.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    blocks = max(containers, key=lambda module: sum(p.numel() for p in module.parameters()))
    block_of = {parameter: i for i, block in enumerate(blocks, start=1) for parameter in block.parameters()}
    factors, depth = {}, 0
    for parameter in vit.parameters():
        if parameter in block_of:
            depth = block_of[parameter]
        elif depth:
            depth = len(blocks) + 1
        factors[parameter] = decay ** (len(blocks) + 1 - depth)
    return factors
