"""What a backbone of transformers or timm is made of: its stages, and, found without numbers, what its maps are."""

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoBackbone, PreTrainedModel

from .configuration_dino_detr import is_hierarchical

USUAL_STRIDE = 32  # pixels a cell of the last map stands for, in most hierarchical backbones

_EXAMINED: dict[str, "BackboneFacts"] = {}  # by configuration: a second detector is built as fast as before


@dataclass(frozen=True)
class BackboneFacts:
    """
    What running a backbone tells of it.

    Args:
        grain: pixels of which a side of the image is a multiple, if it is padded to whole cells: a plain ViT's patch.
        strides: pixels a cell of each map stands for, each way, finest first.
        unused: names of the parameters that no map depends on, so that they never get a gradient.
    """

    grain: int
    strides: tuple[int, ...]
    unused: frozenset[str]


def build_backbone(backbone_config: Any, **timm_arguments: Any) -> PreTrainedModel:
    """Build a backbone with random weights, or with timm's `pretrained=True` with its own."""
    check_backbone_type(backbone_config.model_type, "backbone_config")
    if backbone_config.model_type != "timm_backbone":
        return AutoBackbone.from_config(backbone_config)
    from transformers import TimmBackbone  # imports timm, which takes a second

    # TimmBackboneConfig has no place for timm's own arguments, so they are kept beside its fields
    return TimmBackbone(backbone_config, **(getattr(backbone_config, "timm_arguments", {}) | timm_arguments))


def check_backbone_type(model_type: str, place: str) -> None:
    """Refuse a `model_type` of which transformers knows no backbone."""
    known = sorted(config.model_type for config in MODEL_FOR_BACKBONE_MAPPING)
    if model_type not in known:
        raise ValueError(f"{place}: {model_type!r} is not supported as a backbone; choose from {', '.join(known)}")


def examine_backbone(backbone_config: Any) -> BackboneFacts:
    """
    Find out what a backbone gives, by running it on the meta device, where nothing is computed.

    Raises:
        ValueError: if it takes images of some sizes only, or its maps are not one smaller than the other.
    """
    check_backbone_type(backbone_config.model_type, "backbone_config")
    key = backbone_config.to_json_string(use_diff=False)
    if key not in _EXAMINED:
        _EXAMINED[key] = _examine(copy.deepcopy(backbone_config))  # timm's are completed when they are built
    return _EXAMINED[key]


@torch.inference_mode(False)
@torch.enable_grad()
def _examine(config: Any) -> BackboneFacts:
    what = f"{config.model_type} {config.backbone}" if config.model_type == "timm_backbone" else config.model_type
    with torch.device("meta"):
        backbone: Any = build_backbone(config).eval()
    grain = _grain(backbone)
    sides = 20 * grain, 24 * grain
    maps = _run(backbone, what, *sides)
    strides = tuple(round(sides[0] / feature_map.shape[2]) for feature_map in maps)
    falling = all(finer < coarser for finer, coarser in pairwise(strides))
    square = all(stride == round(sides[1] / feature_map.shape[3]) for stride, feature_map in zip(strides, maps))
    if [feature_map.shape[1] for feature_map in maps] != list(backbone.channels) or not (falling and square):
        shapes = ", ".join("x".join(map(str, feature_map.shape[1:])) for feature_map in maps)
        raise ValueError(
            f"{what} cannot be the backbone with these out_features: of an image of {sides[0]}x{sides[1]} pixels it "
            f"gives {shapes}, which are not maps of {', '.join(map(str, backbone.channels))} channels, each smaller "
            "than the one before"
        )
    odd = 0 if takes_whole_cells(backbone) else 5
    maps = _run(backbone, what, 2 * grain + odd, 5 * grain + odd)
    names, parameters = zip(*((name, p) for name, p in backbone.named_parameters() if p.requires_grad))
    gradients = torch.autograd.grad([feature_map.sum() for feature_map in maps], parameters, allow_unused=True)
    unused = frozenset(name for name, gradient in zip(names, gradients) if gradient is None)
    return BackboneFacts(grain, strides, unused)


def _run(backbone: Any, what: str, height: int, width: int) -> list[Tensor]:
    """Return the maps `[1, C, h, w]` of an image of this size."""
    try:
        with torch.device("meta"):
            maps = backbone(torch.empty(1, 3, height, width), return_dict=True).feature_maps
    except Exception as error:  # of somebody else's code, any
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{what} cannot be the backbone, which takes images of any size: of {height}x{width} pixels it says: "
            + reason
        ) from error
    if any(feature_map.ndim != 4 for feature_map in maps):
        raise ValueError(f"{what} cannot be the backbone: it gives no maps, but {[list(m.shape) for m in maps]}")
    return as_channels_first(backbone, maps)


def as_channels_first(backbone: Any, maps: Any) -> list[Tensor]:
    """Return maps as `[B, C, h, w]`; timm's Swin gives `[B, h, w, C]`."""
    layout = getattr(getattr(backbone, "_backbone", None), "output_fmt", None)
    if getattr(layout, "value", None) == "NHWC":
        return [feature_map.permute(0, 3, 1, 2) for feature_map in maps]
    return list(maps)


def backbone_is_hierarchical(backbone: Any) -> bool:
    """Return whether the maps of a backbone's stages become smaller."""
    if backbone.config.model_type == "timm_backbone":
        return len({info["reduction"] for info in backbone._backbone.feature_info.get_dicts()}) > 1
    return is_hierarchical(backbone.config)


def takes_whole_cells(backbone: Any) -> bool:
    """Return whether a side of the image must be a multiple of the grain: timm's ViTs and Swins take nothing else."""
    return backbone.config.model_type == "timm_backbone"


def patch_size_of(backbone_config: Any) -> int:
    """Return the side of a patch of a plain ViT of transformers, in pixels."""
    size = backbone_config.patch_size
    return size if isinstance(size, int) else size[0]


def _grain(backbone: Any) -> int:
    if backbone.config.model_type == "timm_backbone":
        return backbone._backbone.feature_info.reduction()[-1]
    return USUAL_STRIDE if is_hierarchical(backbone.config) else patch_size_of(backbone.config)


def stage_modules(backbone: Any) -> list[nn.Module]:
    """Return the blocks of a plain ViT, or the stages of a hierarchical backbone, first to last."""
    if backbone.config.model_type == "timm_backbone":
        # timm names the last module of each stage. It may have cut the model to pieces, whose names have no dots
        timm_model = getattr(backbone._backbone, "model", backbone._backbone)
        modules = dict(timm_model.named_modules())
        names = [info["module"] for info in backbone._backbone.feature_info.info]
        named = [modules.get(name, modules.get(name.replace(".", "_"))) for name in names]
        stages = [stage for stage in named if stage is not None and any(True for _ in stage.parameters())]
        if stages:
            return stages
    containers = [module for module in backbone.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    return list(max(containers, key=lambda module: sum(p.numel() for p in module.parameters()), default=()))


def parameter_depths(backbone: nn.Module) -> tuple[dict[nn.Parameter, int], int]:
    """
    Return in which stage each parameter is, and the number of stages `n` (see `stage_modules`).

    Stages are counted from 1; what stands before them (stem, embeddings) is in 0, what stands after them in n + 1, and
    what stands between two in the second.
    """
    stages = stage_modules(backbone)
    stage_of = {parameter: i for i, stage in enumerate(stages, start=1) for parameter in stage.parameters()}
    depths, last = {}, 0
    for parameter in backbone.parameters():
        if parameter in stage_of:
            depths[parameter] = last = stage_of[parameter]
        else:
            depths[parameter] = last + 1 if last else 0
    return depths, len(stages)
