"""A plain ViT of transformers or timm made ready: patch size, position grid, padding, freezing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_BACKBONE_MAPPING,
    AutoBackbone,
    AutoConfig,
    PreTrainedModel,
    TimmBackboneConfig,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from .configuration_dino_detr import DinoDetrConfig
from .cpu_linear import fast_linears, is_captured

logger = logging.get_logger(__name__)

SUPPORTED = ("dinov2", "dinov2_with_registers", "dinov3_vit", "timm_backbone")


class DinoDetrBackbone(nn.Module):
    """
    `[B, 3, H, W]` of any size -> the last block's map `[B, C, h, w]`, one cell per patch.

    The image is zero-padded at the right and bottom to whole patches (at least two each way, which the pyramid halves).
    """

    def __init__(self, config: DinoDetrConfig):
        super().__init__()
        self.frozen = config.freeze_backbone
        self.model: Any = build_backbone(config.backbone_config)  # of one of many classes
        self.patch_size = backbone_patch_size(config.backbone_config)
        self.channels: int = self.model.channels[-1]
        if config.position_embedding_antialias and self.model.config.model_type == "dinov2":
            embeddings = self.model.embeddings
            embeddings.interpolate_pos_encoding = partial(_interpolate_positions_antialiased, embeddings)
        self.freeze()

    def freeze(self) -> None:
        """Switch off the gradients of a frozen backbone, or of what no gradient reaches (DDP would stop at it)."""
        unused = ["mask_token"]
        if getattr(self.model.config, "apply_layernorm", True) is False:
            unused.append("layernorm.")
        for name, parameter in self.model.named_parameters():
            if self.frozen or any(part in name for part in unused):
                parameter.requires_grad_(False)
        if self.frozen:
            self.model.eval()

    def train(self, mode: bool = True) -> "DinoDetrBackbone":
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Switch recomputation of timm's blocks, which transformers does not know, on or off."""
        if self.model.config.model_type == "timm_backbone":
            self.model._backbone.model.set_grad_checkpointing(enable)

    def forward(self, pixel_values: Tensor) -> Tensor:
        height, width = (max(2, -(-side // self.patch_size)) * self.patch_size for side in pixel_values.shape[-2:])
        pixel_values = F.pad(pixel_values, (0, width - pixel_values.shape[-1], 0, height - pixel_values.shape[-2]))
        pixel_values = pixel_values.to(self.model.dtype)
        # frozen or not: adapters in a frozen backbone are trained, and of the image a gradient may be asked for
        wanted = pixel_values.requires_grad or any(parameter.requires_grad for parameter in self.model.parameters())
        arguments = {"return_dict": True}
        if self.model.config.model_type == "timm_backbone":  # which cannot tell more, and would raise
            arguments |= {"output_attentions": False, "output_hidden_states": False}
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            if is_captured():  # by what cannot follow the rest
                return self.model(pixel_values, **arguments).feature_maps[-1]
            with fast_linears(pixel_values), self._weights(), self._checkpointed(pixel_values) as pixel_values:
                return self.model(pixel_values, **arguments).feature_maps[-1]

    @contextmanager
    def _checkpointed(self, pixel_values: Tensor) -> Iterator[Tensor]:
        """
        Have layers recomputed, if that was asked for, although a frozen backbone is in eval mode.

        Only the layers themselves are said to train, which transformers looks at; what they consist of is not.
        Recomputed the reentrant way, a layer has gradients only if its input wants one.
        """
        layers = []
        if self.frozen and self.training and torch.is_grad_enabled():
            layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
            layers = [layer for layer in layers if layer.gradient_checkpointing]
        for layer in layers:
            layer.training = True
        options = [getattr(layer._gradient_checkpointing_func, "keywords", {}) for layer in layers]
        if any(option.get("use_reentrant") for option in options) and not pixel_values.requires_grad:
            pixel_values = pixel_values.detach().requires_grad_()
        try:
            yield pixel_values
        finally:
            for layer in layers:
                layer.training = False

    @contextmanager
    def _weights(self) -> Iterator[None]:
        """
        Have the weights in place that accelerate offloaded.

        It brings them when a module's `forward` is called; TimmBackbone enters timm's model by another method.
        """
        vit = self.model._backbone.model if self.model.config.model_type == "timm_backbone" else None
        hook = getattr(vit, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(vit)
        try:
            yield
        finally:
            if hook is not None:
                hook.post_forward(vit, None)


def build_backbone(backbone_config: Any, **timm_arguments: Any) -> PreTrainedModel:
    """Build a backbone with random weights, or with timm's `pretrained=True` with its own."""
    if backbone_config.model_type not in SUPPORTED:
        raise ValueError(
            f"backbone {backbone_config.model_type!r} is not supported; choose from {', '.join(SUPPORTED)}"
        )
    if backbone_config.model_type != "timm_backbone":
        return AutoBackbone.from_config(backbone_config)
    from transformers import TimmBackbone  # imports timm, which takes a second

    # TimmBackboneConfig has no place for timm's own arguments, so they are kept beside its fields
    arguments = getattr(backbone_config, "timm_arguments", {}) | timm_arguments
    model: Any = TimmBackbone(backbone_config, **arguments)
    reductions = {info["reduction"] for info in model._backbone.feature_info.get_dicts()}
    if not hasattr(getattr(model._backbone, "model", None), "blocks") or len(reductions) != 1:
        raise ValueError(f"timm:{backbone_config.backbone} is not a plain ViT, which the feature pyramid needs")
    return model


def backbone_patch_size(backbone_config: Any) -> int:
    """Side of a patch in pixels."""
    if backbone_config.model_type == "timm_backbone":
        return backbone_config.timm_arguments["patch_size"]
    size = backbone_config.patch_size
    return size if isinstance(size, int) else size[0]


def load_pretrained_backbone(source: str, patch_size: int | None = None) -> PreTrainedModel:
    """
    Load a pretrained backbone. Its patch embedding and position grid are resampled if `patch_size` is not its own.

    Args:
        source: a Hub id or folder of transformers, or `timm:<name>`.
        patch_size: side of a patch in pixels; None keeps the checkpoint's.

    Raises:
        ValueError: if the backbone is of a kind not supported, or its weights did not all arrive.
    """
    if source.startswith("timm:"):
        return _load_timm_backbone(source.removeprefix("timm:"), patch_size)
    config = AutoConfig.from_pretrained(source)
    if config.model_type not in SUPPORTED:
        raise ValueError(f"{source} is a {config.model_type!r}; backbones can be {', '.join(SUPPORTED)}")
    # the reference takes DINOv2's last block as it is; DINOv3's outputs are meant to be normed
    config.apply_layernorm = config.model_type == "dinov3_vit"
    config.out_features, config.reshape_hidden_states = [config.stage_names[-1]], True
    # `AutoBackbone.from_pretrained` would ask the Hub whether it knows `source`, be it a folder or offline
    backbone_class: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    backbone, loading = backbone_class.from_pretrained(
        source, config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(set(loading["missing_keys"]) | {str(key) for key in loading["mismatched_keys"]})
    if missing:
        raise ValueError(
            f"{source} lacks weights of the backbone: {', '.join(missing[:5])}" + ", ..." * (len(missing) > 5)
        )
    if patch_size is not None and patch_size != backbone_patch_size(config):
        backbone = _change_patch_size(backbone, patch_size)
        logger.warning(_describe_change(source, backbone_patch_size(config), backbone))
    if os.path.isdir(source):
        backbone.config.name_or_path = ""  # a checkpoint does not tell where on a machine it was made
    return backbone


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


def _load_timm_backbone(name: str, patch_size: int | None) -> PreTrainedModel:
    timm = _import_timm(f"timm:{name}")
    if timm.get_pretrained_cfg(name) is None:
        raise ValueError(f"timm knows no pretrained model named {name!r}")
    with torch.device("meta"):  # only to learn its own patch and image size
        model = timm.create_model(name)
    embedding: Any = getattr(model, "patch_embed", None)
    if not hasattr(model, "blocks") or not hasattr(embedding, "patch_size"):
        raise ValueError(f"timm:{name} is not a plain ViT, which the feature pyramid needs")
    arguments = {
        "img_size": embedding.img_size[0],
        "patch_size": patch_size or embedding.patch_size[0],
        "dynamic_img_size": True,
    }
    fields: dict[str, Any] = {"out_indices": [-1], "timm_arguments": arguments}
    config = TimmBackboneConfig(backbone=name, **fields)
    backbone = build_backbone(config, pretrained=True)  # timm resamples what it loads
    if arguments["patch_size"] != embedding.patch_size[0]:
        logger.warning(f"timm:{name}: patch embedding resampled {embedding.patch_size[0]} -> {patch_size} by timm")
    return backbone


def _interpolate_positions_antialiased(module: Any, embeddings: Tensor, height: int, width: int) -> Tensor:
    """Resample as `Dinov2Embeddings.interpolate_pos_encoding`, but with antialiasing, as timm and the reference do."""
    positions = module.position_embeddings  # [1, 1 + grid * grid, C]
    grid = int((positions.shape[1] - 1) ** 0.5)
    rows, columns = height // module.patch_embeddings.patch_size[0], width // module.patch_embeddings.patch_size[1]
    if (rows, columns) == (grid, grid):
        return positions
    patches = positions[:, 1:].float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False)
    patches = patches.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :1], patches], dim=1)
