"""A backbone of transformers or timm made ready: its maps, padding, position grid, freezing."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.modeling_layers import GradientCheckpointingLayer

from .backbone_structure import (
    as_channels_first,
    backbone_is_hierarchical,
    build_backbone,
    examine_backbone,
    parameter_depths,
    takes_whole_cells,
)
from .configuration_dino_detr import DinoDetrConfig
from .cpu_linear import fast_linears, is_captured


class DinoDetrBackbone(nn.Module):
    """
    `[B, 3, H, W]` of any size -> the backbone's maps `[B, C, h, w]`, finest first.

    The image is zero-padded at the right and bottom: for a plain ViT to whole patches (see `pad_to_patch_size`), and at
    least to what gives a cell of the last map, two of them each way if a pyramid halves it.
    """

    def __init__(self, config: DinoDetrConfig):
        super().__init__()
        self.freeze_backbone = config.freeze_backbone
        self.facts = examine_backbone(config.backbone_config)
        self.model: Any = build_backbone(config.backbone_config)  # of one of many classes
        self.channels: list[int] = list(self.model.channels)
        padded = config.pad_to_patch_size and not backbone_is_hierarchical(self.model)
        self.takes_whole_cells = padded or takes_whole_cells(self.model)
        if config.position_embedding_antialias and self.model.config.model_type == "dinov2":
            embeddings = self.model.embeddings
            embeddings.interpolate_pos_encoding = partial(_interpolate_positions_antialiased, embeddings)
        self.freeze()

    @property
    def frozen(self) -> bool:
        """Whether all of it is left as it is."""
        return self.freeze_backbone is True

    @property
    def stride(self) -> int:
        """The pixels that a cell of the last map stands for, each way: a plain ViT's patch."""
        return self.facts.strides[-1]

    def freeze(self) -> None:
        """
        Switch off the gradients of what is frozen, and of what no gradient reaches (DDP would stop at it).

        Batch norms are frozen in any case: a step's few images say nothing of a data set's statistics.

        Raises:
            ValueError: if the backbone has fewer stages than are to be frozen.
        """
        depths, num_stages = parameter_depths(self.model)
        first = min(depths.values())  # 1 if the stem is a part of the first stage
        if self.freeze_backbone > num_stages + 1 - first:
            raise ValueError(
                f"freeze_backbone={self.freeze_backbone}, but this backbone has {num_stages + 1 - first} stages"
                + ", its stem or embeddings included" * (first == 0)
            )
        for name, parameter in self.model.named_parameters():
            if self.frozen or name in self.facts.unused or depths[parameter] - first < self.freeze_backbone:
                parameter.requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "DinoDetrBackbone":
        """Set the mode as any module does; what is frozen stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        elif mode:
            for module in self.model.modules():
                parameters = list(module.parameters())
                if isinstance(module, _BatchNorm) or (parameters and not any(p.requires_grad for p in parameters)):
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
        return as_channels_first(self.model, maps)

    def _padded(self, side: int) -> int:
        """Return a side of the image, in pixels, as the backbone gets it."""
        least = self.stride * (2 if len(self.channels) == 1 else 1)
        grain = self.facts.grain if self.takes_whole_cells else 1
        return max(least, -(-side // grain) * grain)

    @contextmanager
    def _checkpointed(self, pixel_values: Tensor) -> Iterator[Tensor]:
        """
        Have layers recomputed, if that was asked for, although what is frozen is in eval mode.

        Only the layers themselves are said to train, which transformers looks at; what they consist of is not.
        Recomputed the reentrant way, a layer has gradients only if its input wants one.
        """
        layers = []
        if self.freeze_backbone and self.training and torch.is_grad_enabled():
            layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
            layers = [layer for layer in layers if layer.gradient_checkpointing]
        options = [getattr(layer._gradient_checkpointing_func, "keywords", {}) for layer in layers]
        if any(option.get("use_reentrant") for option in options) and not pixel_values.requires_grad:
            pixel_values = pixel_values.detach().requires_grad_()
        inner = {part for layer in layers for part in layer.modules() if part is not layer}  # Swin's, in its stages
        frozen = [layer for layer in layers if not layer.training and layer not in inner]
        for layer in frozen:
            layer.training = True
        try:
            yield pixel_values
        finally:
            for layer in frozen:
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
