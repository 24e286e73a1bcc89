"""The recipe's parameter groups and schedule."""

from typing import Any

import torch
from torch import nn

from ..backbone_structure import parameter_depths
from .memory import keep_freed_memory
from .muon import MuonAndAdamW, muon_matrices


def build_optimizer(
    model: nn.Module,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-4,
    backbone_lr_factor: float = 0.1,
    backbone_layer_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    muon: bool = False,
) -> torch.optim.Optimizer:
    """
    Build AdamW over the trainable parameters, grouped as the reference groups them.

    The backbone, if trained, and the pyramid learn at `learning_rate * backbone_lr_factor`, adapters in the backbone at
    `learning_rate`. `nn.LayerNorm` and `nn.GroupNorm` are not decayed, unless the configuration says `decay_norms`.
    Everything else is, the channels-first norms of the pyramid and of ConvNeXt, biases and embeddings included.

    If the model is on a CPU, this process keeps from now on what it frees, which makes steps faster (see
    `keep_freed_memory`).

    Args:
        model: a `DinoDetrForObjectDetection` or `DinoDetrModel`.
        backbone_layer_decay: 0..1; block (or stage) `i` of the backbone's `n`, counted from 1, learns slower by a
            further `backbone_layer_decay ** (n + 1 - i)`, the embeddings as block 0 (ViTDet, arXiv 2203.16527,
            appendix; detectron2's `get_vit_lr_decay_rate`).
        betas, eps: AdamW's.
        muon: let `torch.optim.Muon` train the matrices (see `muon_matrices`) and AdamW the rest. Its updates are scaled
            to AdamW's, so that rates and decay mean the same (arXiv 2502.16982, section 2.2).
    """
    if next(model.parameters()).device.type == "cpu":
        keep_freed_memory()
    detector: Any = getattr(model, "model", model)
    depth_factors = _depth_factors(detector.backbone.model, backbone_layer_decay) if backbone_layer_decay != 1 else {}
    norms_are_decayed = getattr(getattr(detector, "config", None), "decay_norms", False)
    matrices = muon_matrices(model) if muon else set()
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for module_name, module in model.named_modules():
        slow = bool({"backbone", "pyramid"} & set(module_name.split("."))) and ".lora_" not in module_name
        decayed = norms_are_decayed or not _is_exempt(module)
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                factor = (backbone_lr_factor if slow else 1.0) * depth_factors.get(parameter, 1.0)
                groups.setdefault((parameter in matrices, factor, decayed), []).append(parameter)

    def groups_of(of_muon: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "lr": learning_rate * factor, "weight_decay": weight_decay if decayed else 0.0}
            for (is_matrix, factor, decayed), parameters in groups.items()
            if is_matrix == of_muon
        ]

    adamw = torch.optim.AdamW(groups_of(False), betas=betas, eps=eps, fused=True)
    if not matrices:
        return adamw
    return MuonAndAdamW(torch.optim.Muon(groups_of(True), adjust_lr_fn="match_rms_adamw"), adamw)


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


def _depth_factors(backbone: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Return factors by parameter: less from each stage to the one before it."""
    depths, num_stages = parameter_depths(backbone)
    return {parameter: decay ** (num_stages + 1 - depth) for parameter, depth in depths.items()}


def _is_exempt(module: nn.Module) -> bool:
    """
    Return whether the weights of a module are not decayed: norms, as detectron2 knows them.

    ConvNeXt's norms, which tell the order of their dimensions, are no `nn.LayerNorm` there and so are decayed.
    """
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and not hasattr(module, "data_format")
