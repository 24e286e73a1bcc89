"""A backbone of transformers or timm made ready: its maps, padding, position grid, freezing."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoBackbone, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_dino_detr import DinoDetrConfig, is_hierarchical
from .cpu_linear import fast_linears, is_captured

LARGEST_STRIDE = 32  # pixels a cell of the last map stands for, in a hierarchical backbone


class DinoDetrBackbone(nn.Module):
    """
    `[B, 3, H, W]` of any size -> the backbone's maps `[B, C, h, w]`, finest first.

    The image is zero-padded at the right and bottom: for a plain ViT to whole patches (see `pad_to_patch_size`), and at
    least to what gives a cell of the last map, two of them each way if a pyramid halves it.
    """

    def __init__(self, config: DinoDetrConfig):
        super().__init__()
        self.freeze_backbone, self.pad_to_patch_size = config.freeze_backbone, config.pad_to_patch_size
        self.model: Any = build_backbone(config.backbone_config)  # of one of many classes
        self.stride = backbone_stride(self.model)
        self.is_hierarchical = backbone_is_hierarchical(self.model)
        self.channels: list[int] = list(self.model.channels)
        if config.position_embedding_antialias and self.model.config.model_type == "dinov2":
            embeddings = self.model.embeddings
            embeddings.interpolate_pos_encoding = partial(_interpolate_positions_antialiased, embeddings)
        self.freeze()

    @property
    def frozen(self) -> bool:
        """Whether all of it is left as it is."""
        return self.freeze_backbone is True

    def freeze(self) -> None:
        """
        Switch off the gradients of what is frozen, and of what no gradient reaches (DDP would stop at it).

        Batch norms are frozen in any case: a step's few images say nothing of a data set's statistics.
        """
        unused = ["mask_token", "swin.layernorm."]
        if getattr(self.model.config, "apply_layernorm", True) is False:
            unused.append("layernorm.")
        for name, parameter in self.model.named_parameters():
            if self.frozen or any(part in name for part in unused):
                parameter.requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        depths, num_stages = parameter_depths(self.model)
        last_seen = _last_stage(self.model.config, num_stages)
        for parameter, depth in depths.items():
            if depth < int(self.freeze_backbone) or last_seen < depth <= num_stages:
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "DinoDetrBackbone":
        """Set the mode as any module does; what is frozen stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        elif mode:
            for module in self.model.modules():
                parameters = list(module.parameters())
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    module.eval()
        return self

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Switch recomputation of timm's blocks, which transformers does not know, on or off."""
        if self.model.config.model_type == "timm_backbone":
            timm_model = getattr(self.model._backbone, "model", self.model._backbone)
            timm_model.set_grad_checkpointing(enable)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        height, width = (self._padded(side) for side in pixel_values.shape[-2:])
        pixel_values = F.pad(pixel_values, (0, width - pixel_values.shape[-1], 0, height - pixel_values.shape[-2]))
        pixel_values = pixel_values.to(self.model.dtype)
        # frozen or not: adapters in a frozen backbone are trained, and of the image a gradient may be asked for
        wanted = pixel_values.requires_grad or any(parameter.requires_grad for parameter in self.model.parameters())
        arguments = {"return_dict": True}
        if self.model.config.model_type == "timm_backbone":  # which cannot tell more, and would raise
            arguments |= {"output_attentions": False, "output_hidden_states": False}
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            if is_captured():  # by what cannot follow the rest
                maps = self.model(pixel_values, **arguments).feature_maps
            else:
                with fast_linears(pixel_values), self._weights(), self._checkpointed(pixel_values) as pixel_values:
                    maps = self.model(pixel_values, **arguments).feature_maps
        if self._channels_last():
            maps = [feature_map.permute(0, 3, 1, 2) for feature_map in maps]
        return list(maps)

    def _padded(self, side: int) -> int:
        """Return a side of the image, in pixels, as the backbone gets it."""
        cells = 2 if len(self.channels) == 1 else 1
        whole_cells = self.pad_to_patch_size and not self.is_hierarchical
        if whole_cells or self.model.config.model_type == "timm_backbone":  # of timm's, many take nothing else
            return max(cells, -(-side // self.stride)) * self.stride
        return max(cells * self.stride, side)

    def _channels_last(self) -> bool:
        """Return whether the maps are `[B, h, w, C]`, as timm's Swin gives them."""
        if self.model.config.model_type != "timm_backbone":
            return False
        return getattr(getattr(self.model._backbone, "output_fmt", None), "value", None) == "NHWC"

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
        vit = getattr(self.model._backbone, "model", None) if self.model.config.model_type == "timm_backbone" else None
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


def backbone_is_hierarchical(backbone: Any) -> bool:
    """Return whether the maps of a backbone's stages become smaller."""
    if backbone.config.model_type == "timm_backbone":
        return len({info["reduction"] for info in backbone._backbone.feature_info.get_dicts()}) > 1
    return is_hierarchical(backbone.config)


def backbone_stride(backbone: Any) -> int:
    """Return the pixels that a cell of the last map stands for, each way: a plain ViT's patch."""
    if backbone.config.model_type == "timm_backbone":
        return backbone._backbone.feature_info.reduction()[-1]
    return LARGEST_STRIDE if is_hierarchical(backbone.config) else patch_size_of(backbone.config)


def patch_size_of(backbone_config: Any) -> int:
    """Return the side of a patch of a plain ViT of transformers, in pixels."""
    size = backbone_config.patch_size
    return size if isinstance(size, int) else size[0]


def stage_modules(backbone: Any) -> list[nn.Module]:
    """Return the blocks of a plain ViT, or the stages of a hierarchical backbone, first to last."""
    timm_model = getattr(backbone, "_backbone", None)
    if isinstance(timm_model, nn.ModuleDict):  # timm's convnets, cut to pieces: the stem is the first of five
        names = [info["module"].replace(".", "_") for info in timm_model.feature_info.info]
        return [timm_model[name] for name in names[-4:] if name in timm_model]
    containers = [module for module in backbone.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    return list(max(containers, key=lambda module: sum(p.numel() for p in module.parameters())))


def parameter_depths(backbone: nn.Module) -> tuple[dict[nn.Parameter, int], int]:
    """
    Return in which stage each parameter is, and the number of stages `n` (see `stage_modules`).

    Stages are counted from 1; what stands before them (stem, embeddings) is in 0, what stands after them in n + 1.
    """
    stages = stage_modules(backbone)
    stage_of = {parameter: i for i, stage in enumerate(stages, start=1) for parameter in stage.parameters()}
    depths, depth = {}, 0
    for parameter in backbone.parameters():
        if parameter in stage_of:
            depth = stage_of[parameter]
        elif depth:
            depth = len(stages) + 1
        depths[parameter] = depth
    return depths, len(stages)


def _last_stage(backbone_config: Any, num_stages: int) -> int:
    """Return the last stage whose map is taken; those after it are computed for nothing, or not at all."""
    stage = re.fullmatch(r"stage(\d+)", str((getattr(backbone_config, "out_features", None) or [""])[-1]))
    return int(stage[1]) if stage and backbone_config.model_type != "timm_backbone" else num_stages


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
