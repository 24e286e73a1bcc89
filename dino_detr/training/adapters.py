"""Low-rank adapters (LoRA, arXiv 2106.09685) on frozen linear layers, by peft: added, merged, kept beside weights."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..runs.names import ADAPTER
from .sharding import load_weights

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as peft names them
_ADAPTED = "adapted.safetensors"  # the frozen weights that the adapters stand on
_BASE, _A, _B = ".base_layer.", ".lora_A.default.", ".lora_B.default."
_PEFT_PREFIX = "base_model.model."
_OF_TARGETS = {
    "backbone": ("model.backbone.model.",),
    "all": ("model.backbone.model.", "model.encoder.layers.", "model.decoder.layers."),
}


def check_adapters(options: Any) -> None:
    if options.lora_targets not in _OF_TARGETS:
        raise ValueError(f"lora_targets={options.lora_targets!r} is none of {', '.join(_OF_TARGETS)}")
    if options.lora_rank is not None and find_spec("peft") is None:
        raise ValueError("lora_rank needs peft: pip install 'dino-detr[lora]'")


def add_adapters(model: DinoDetrForObjectDetection, rank: int, targets: str = "backbone") -> None:
    """
    Put an adapter on every linear layer of the targets, whose own weights are left as they are from now on.

    What is trained besides stays so. An adapter begins as a change of 0, its `A` drawn from torch's generator.

    Args:
        rank: of the change that an adapter makes; it counts whole (`lora_alpha` = `rank`).
        targets: `backbone`, or `all`: encoder and decoder layers too.

    Raises:
        ValueError: if the targets have no linear layers, as a ResNet.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name.startswith(_OF_TARGETS[targets])
    ]
    if not any(name.startswith(_OF_TARGETS["backbone"]) for name in names):
        kind = getattr(model.config.backbone_config, "model_type", None)
        raise ValueError(f"lora_rank: a {kind} backbone has no linear layers to adapt; give freeze_backbone a number")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), model)
    base = {parameter for name, parameter in model.named_parameters() if _BASE in name}
    for parameter in trained:
        parameter.requires_grad_(parameter not in base)


def has_adapters(model: nn.Module) -> bool:
    return hasattr(model, "peft_config")


def adapted_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the frozen weights that adapters stand on, by the names they have without adapters; none if none do."""
    return {name.replace(_BASE, "."): value for name, value in model.named_parameters() if _BASE in name}


def merge_weights(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """
    Return a model's weights without adapters, which are part of the layers they stand on: `W + B A`.

    Args:
        weights: whole tensors by the names of `model`. Without adapters they are returned as they are.
    """
    if not has_adapters(model):
        return weights
    merged = {name.replace(_BASE, "."): value for name, value in weights.items() if _A not in name and _B not in name}
    for name, a in weights.items():
        if _A in name:
            layer = name.replace(_A, ".")
            merged[layer] = merged[layer] + weights[name.replace(_A, _B)] @ a
    return merged


@torch.no_grad()
def merge_adapters(model: DinoDetrForObjectDetection, weights: dict[str, Tensor]) -> None:
    """Take the adapters off a model, whose layers have the merged weights then. `weights` are those it has, whole."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = merge_weights(model, weights)
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    load_weights(model, merged)


def save_adapters(folder: Path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """
    Write a model's adapters as peft reads them, and the weights they stand on, into `folder/adapter`.

    Merged weights are rounded, so a run goes on from these.

    Args:
        weights: whole tensors by the names of `model`, which has adapters.
    """
    folder = folder / ADAPTER
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        _PEFT_PREFIX + name.replace(".default.", "."): value.contiguous()
        for name, value in weights.items()
        if _A in name or _B in name
    }
    adapted = {name.replace(_BASE, "."): value.contiguous() for name, value in weights.items() if _BASE in name}
    save_file(own, folder / _WEIGHTS, metadata={"format": "pt"})
    save_file(adapted, folder / _ADAPTED, metadata={"format": "pt"})
    config: Any = vars(model)["peft_config"]["default"]
    config.save_pretrained(folder)


def unmerged_weights(folder: Path, model: nn.Module, merged: dict[str, Tensor]) -> dict[str, Tensor]:
    """
    Return the weights of a checkpoint by the names of a model with adapters.

    Args:
        folder: of the checkpoint, where `save_adapters` wrote to.
        merged: its weights without adapters.

    Raises:
        ValueError: if it has none, or others.
    """
    if not has_adapters(model):
        return merged
    if not (folder / ADAPTER / _CONFIG).is_file():
        raise ValueError(f"{folder} has no adapters, and lora_rank asks for some: leave it out to go on with this run")
    config: Any = vars(model)["peft_config"]["default"]
    rank = json.loads((folder / ADAPTER / _CONFIG).read_text(encoding="utf-8"))["r"]
    own, adapted = load_file(folder / ADAPTER / _WEIGHTS), load_file(folder / ADAPTER / _ADAPTED)
    found = {name.removeprefix(_PEFT_PREFIX).replace(".weight", ".default.weight"): own[name] for name in own}
    wanted = {name for name in model.state_dict() if _A in name or _B in name}
    if rank != config.r or found.keys() != wanted:
        raise ValueError(f"{folder} has adapters of rank {rank} on other layers, or of another rank, than asked for")
    names = {name.replace(_BASE, "."): name for name in model.state_dict()}
    weights = {names[name]: value for name, value in (merged | adapted).items()}
    return weights | found
