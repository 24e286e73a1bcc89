"""Pretrained backbones of transformers and timm: loaded, and resampled to another patch size."""

import os
import re
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_BACKBONE_MAPPING,
    AutoBackbone,
    AutoConfig,
    PreTrainedModel,
    TimmBackboneConfig,
    VitDetConfig,
    ViTMAEModel,
)
from transformers.utils import logging

from .backbone_structure import build_backbone, check_backbone_type, examine_backbone, patch_size_of
from .configuration_dino_detr import is_hierarchical, select_stages

logger = logging.get_logger(__name__)

DEFAULT_PATCH_SIZE = 16  # pixels; a plain ViT is resampled to it where nothing else is asked for
RESAMPLED = ("dinov2", "dinov2_with_registers", "dinov3_vit")  # whose patch size can be changed

# (a ViT's name in transformers, a ViTDet's), of what both have; `q`, `k` and `v` become one
_VITDET_RENAMES = [
    (r"embeddings\.position_embeddings", "embeddings.position_embeddings"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"embeddings.projection.\1"),
    (r"layernorm_before\.(\w+)", r"norm1.\1"),
    (r"layernorm_after\.(\w+)", r"norm2.\1"),
    (r"attention\.(?:o_proj|output\.dense)\.(\w+)", r"attention.proj.\1"),
    (r"(?:mlp\.fc1|intermediate\.dense)\.(\w+)", r"mlp.fc1.\1"),
    (r"(?:mlp\.fc2|output\.dense)\.(\w+)", r"mlp.fc2.\1"),
]
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)")
_PROJECTION = re.compile(r"attention\.(?:attention\.)?([qkv])\w+\.(weight|bias)")


def load_pretrained_backbone(
    source: str, patch_size: int | None = None, num_stages: int = 3, changes: dict[str, Any] | None = None
) -> PreTrainedModel:
    """
    Load a pretrained backbone.

    A ViT of MAE (`vit_mae`) becomes a `vitdet`: its blocks attend in windows of 14x14 patches, the last of each quarter
    to all of them, with relative positions that start at zero (ViTDet, arXiv 2203.16527, section 3).

    Args:
        source: a Hub id or folder of transformers, or `timm:<name>`.
        patch_size: side of a plain ViT's patch in pixels. Its patch embedding and position grid are resampled if that
            is not its own; None keeps the checkpoint's. A hierarchical backbone has none to change.
        num_stages: how many of the last stages of a hierarchical backbone give their maps.
        changes: fields of the backbone's configuration and their values, `drop_path_rate` for example.

    Raises:
        ValueError: if transformers knows it as no backbone, its weights did not all arrive, its patches cannot be
            changed, or it has no field of that name.
    """
    if source.startswith("timm:"):
        return _load_timm_backbone(source.removeprefix("timm:"), patch_size, num_stages, changes or {})
    config: Any = AutoConfig.from_pretrained(source)
    if config.model_type == "vit_mae":
        backbone = _load_mae(source, changes or {})
    else:
        check_backbone_type(config.model_type, source)
        backbone = _load_backbone(source, config, num_stages, changes or {})
    if is_hierarchical(config):
        _refuse_patch_size(source, patch_size)
    elif patch_size is not None and patch_size != patch_size_of(config):
        backbone = _change_patch_size(backbone, patch_size)
        logger.warning(_describe_change(source, patch_size_of(config), backbone))
    if os.path.isdir(source):
        backbone.config.name_or_path = ""  # a checkpoint does not tell where on a machine it was made
    return backbone


def _load_backbone(source: str, config: Any, num_stages: int, changes: dict[str, Any]) -> PreTrainedModel:
    select_stages(config, num_stages)
    if hasattr(config, "apply_layernorm"):
        # the reference takes DINOv2's last block as it is; DINOv3's outputs are meant to be normed
        config.apply_layernorm = config.model_type == "dinov3_vit"
    if hasattr(config, "reshape_hidden_states"):
        config.reshape_hidden_states = True
    _change(source, config, changes)
    # `AutoBackbone.from_pretrained` would ask the Hub whether it knows `source`, be it a folder or offline
    backbone_class: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    backbone, loading = backbone_class.from_pretrained(
        source, config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = set(loading["missing_keys"]) | {str(key) for key in loading["mismatched_keys"]}
    missing = sorted(key for key in missing if "hidden_states_norms" not in key)  # norms of the maps, which start anew
    _refuse_missing(source, missing)
    return backbone


def _change(source: str, config: Any, changes: dict[str, Any]) -> None:
    """Change fields of a configuration."""
    for name, value in changes.items():
        if not hasattr(config, name):
            raise ValueError(f"backbone_config: {source} is a {config.model_type}, which has no field {name!r}")
        if name == "model_type" and value != config.model_type:
            raise ValueError(f"backbone_config: {source} is a {config.model_type}, not a {value}")
        setattr(config, name, value)


def _refuse_patch_size(source: str, patch_size: int | None) -> None:
    if patch_size not in (None, DEFAULT_PATCH_SIZE):
        raise ValueError(f"patch_size={patch_size}, but {source} is hierarchical and has no patch size to change")


def _load_mae(source: str, changes: dict[str, Any]) -> PreTrainedModel:
    loaded: Any = ViTMAEModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    mae, loading = loaded
    _refuse_missing(source, sorted(loading["missing_keys"]))
    config = mae.config
    if config.intermediate_size % config.hidden_size:
        raise ValueError(f"{source}: ViTDet's intermediate_size is a multiple of its hidden_size, which this is not")
    last_of_quarters = {config.num_hidden_layers * quarter // 4 - 1 for quarter in (1, 2, 3, 4)}
    patch = patch_size_of(config)
    vitdet_config = VitDetConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size // config.hidden_size,
        hidden_act=config.hidden_act,
        layer_norm_eps=1e-6,  # MAE's own, and detectron2's; transformers' configuration has 1e-12
        qkv_bias=config.qkv_bias,
        patch_size=patch,
        image_size=64 * patch,
        pretrain_image_size=config.image_size,
        window_size=14,
        window_block_indices=sorted(set(range(config.num_hidden_layers)) - last_of_quarters),
        residual_block_indices=[],
        use_absolute_position_embeddings=True,
        use_relative_position_embeddings=True,
    )
    _change(source, vitdet_config, changes)
    vitdet = AutoBackbone.from_config(vitdet_config)
    weights = vitdet.state_dict()
    for name in weights:
        if ".rel_pos_" in name:
            weights[name].zero_()
    vitdet.load_state_dict(weights | _vitdet_weights(mae.state_dict()))
    return vitdet


def _vitdet_weights(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a ViT; what a ViTDet has no place for (class token, last norm) is left out."""
    weights, projections = {}, {}
    for name, tensor in vit.items():
        block = _BLOCK.fullmatch(name)
        prefix, rest = (f"encoder.layer.{block[1]}.", block[2]) if block else ("", name)
        if projection := _PROJECTION.fullmatch(rest):
            projections.setdefault(f"{prefix}attention.qkv.{projection[2]}", {})[projection[1]] = tensor
        for pattern, replacement in _VITDET_RENAMES:
            if re.fullmatch(pattern, rest):
                weights[prefix + re.sub(pattern, replacement, rest)] = tensor
    return weights | {name: torch.cat([parts[part] for part in "qkv"]) for name, parts in projections.items()}


def _refuse_missing(source: str, missing: list[str]) -> None:
    if missing:
        raise ValueError(
            f"{source} lacks weights of the backbone: {', '.join(missing[:5])}" + ", ..." * (len(missing) > 5)
        )


def _describe_change(source: str, old_patch_size: int, backbone: Any) -> str:
    change = f"{source}: patch embedding resampled {old_patch_size} -> {backbone.config.patch_size}"
    if hasattr(backbone.embeddings, "position_embeddings"):
        side = backbone.config.image_size // backbone.config.patch_size
        change += f", position grid {backbone.config.image_size // old_patch_size} -> {side}"
    return change


def _import_timm(purpose: str) -> ModuleType:
    """Return timm, which takes a second to import and is not always there."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"{purpose} needs timm: pip install timm") from error
    return timm


@torch.no_grad()
def _change_patch_size(backbone: PreTrainedModel, patch_size: int) -> PreTrainedModel:
    """Resample a backbone to another patch size (pseudo-inverse resize of FlexiViT, arXiv 2212.08013, 3.4)."""
    if backbone.config.model_type not in RESAMPLED:
        raise ValueError(
            f"the patches of a {backbone.config.model_type!r} stay {patch_size_of(backbone.config)} pixels wide: only "
            f"those of {', '.join(RESAMPLED)} and of timm's ViTs can be resampled to {patch_size}"
        )
    timm = _import_timm("changing a backbone's patch size")
    config = type(backbone.config).from_dict(backbone.config.to_dict() | {"patch_size": patch_size})
    resized: PreTrainedModel = AutoBackbone.from_config(config)
    weights = backbone.state_dict()
    for name, expected in resized.state_dict().items():
        if weights[name].shape == expected.shape:
            continue
        if name.endswith("position_embeddings"):
            side = config.image_size // patch_size
            weights[name] = timm.layers.resample_abs_pos_embed(weights[name], [side, side], num_prefix_tokens=1)
        else:
            weights[name] = timm.layers.resample_patch_embed(weights[name], [patch_size, patch_size])
    resized.load_state_dict(weights)
    return resized


def _load_timm_backbone(name: str, patch_size: int | None, num_stages: int, changes: dict[str, Any]) -> PreTrainedModel:
    timm = _import_timm(f"timm:{name}")
    if timm.get_pretrained_cfg(name) is None:
        raise ValueError(f"timm knows no pretrained model named {name!r}")
    with torch.device("meta"):  # only to learn its own patch and image size
        model = timm.create_model(name)
    embedding: Any = getattr(model, "patch_embed", None)
    plain = hasattr(model, "blocks") and hasattr(embedding, "patch_size")
    if plain:
        arguments = {
            "img_size": embedding.img_size[0],
            "patch_size": patch_size or embedding.patch_size[0],
            "dynamic_img_size": True,
        }
    else:  # Swin and its like take other sizes than that of their pretraining only if they are told to
        _refuse_patch_size(f"timm:{name}", patch_size)
        arguments = {"strict_img_size": False} if getattr(embedding, "strict_img_size", None) else {}
    fields: dict[str, Any] = {
        "out_indices": [-1] if plain else list(range(-max(num_stages, 1), 0)),
        "timm_arguments": arguments,
    }
    config = TimmBackboneConfig(backbone=name, **fields)
    _change(f"timm:{name}", config, changes | {"timm_arguments": arguments | changes.get("timm_arguments", {})})
    examine_backbone(config)  # before anything is downloaded
    backbone = build_backbone(config, pretrained=True)  # timm resamples what it loads
    if plain and arguments["patch_size"] != embedding.patch_size[0]:
        logger.warning(f"timm:{name}: patch embedding resampled {embedding.patch_size[0]} -> {patch_size} by timm")
    return backbone
