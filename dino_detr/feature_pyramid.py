"""Maps of the transformer's width at several scales, from one map of a plain ViT or from several of a backbone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelsFirstLayerNorm(nn.Module):
    """LayerNorm over the channels of `[B, C, h, w]`; no `nn.LayerNorm`, because the recipe decays its weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return x.permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """
    ViTDet's simple feature pyramid (arXiv 2203.16527, section 3).

    Every level is made from the same map: `[B, C, h, w]` -> one `[B, channels, h * factor, w * factor]` per factor,
    finest first (odd sizes are floored by factor 0.5), then `extra_levels` more, each every second cell of the last.
    """

    def __init__(self, in_channels: int, channels: int, scale_factors: Sequence[float], extra_levels: int):
        super().__init__()
        self.extra_levels = extra_levels
        self.levels = nn.ModuleList(self._build_level(in_channels, channels, factor) for factor in scale_factors)

    @staticmethod
    def _build_level(in_channels: int, channels: int, factor: float) -> nn.Sequential:
        if factor == 4.0:
            width = in_channels // 4
            resize = [
                nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2),
                ChannelsFirstLayerNorm(in_channels // 2),
                nn.GELU(),
                nn.ConvTranspose2d(in_channels // 2, width, kernel_size=2, stride=2),
            ]
        elif factor == 2.0:
            width = in_channels // 2
            resize = [nn.ConvTranspose2d(in_channels, width, kernel_size=2, stride=2)]
        else:
            width = in_channels
            resize = [nn.MaxPool2d(kernel_size=2, stride=2)] if factor == 0.5 else []
        return nn.Sequential(
            *resize,
            nn.Conv2d(width, channels, kernel_size=1, bias=False),
            ChannelsFirstLayerNorm(channels),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            ChannelsFirstLayerNorm(channels),
        )

    def forward(self, feature_map: Tensor) -> list[Tensor]:
        maps = [level(feature_map) for level in self.levels]
        for _ in range(self.extra_levels):
            maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))  # a slice's strides would bind exported graphs
        return maps


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` that takes a single value per group too: one cell of the narrowest model."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Neck(nn.Module):
    """
    A 1x1 convolution and GroupNorm(32) on each map -> `d_model` channels.

    Further levels are made by 3x3 convolutions of stride 2 and the same norm, the first from the last map as it came,
    the next from the level before (DINO, arXiv 2203.03605, appendix; detrex's `ChannelMapper`).
    """

    def __init__(self, in_channels: Sequence[int], d_model: int, num_levels: int):
        super().__init__()
        convolutions = [nn.Conv2d(channels, d_model, kernel_size=1) for channels in in_channels]
        while len(convolutions) < num_levels:
            channels = in_channels[-1] if len(convolutions) == len(in_channels) else d_model
            convolutions.append(nn.Conv2d(channels, d_model, kernel_size=3, stride=2, padding=1))
        self.levels = nn.ModuleList(nn.Sequential(convolution, GroupNorm(32, d_model)) for convolution in convolutions)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [level(feature_map) for level, feature_map in zip(self.levels, maps)]
        for level in list(self.levels)[len(maps) :]:
            levels.append(level(maps[-1] if len(levels) == len(maps) else levels[-1]))
        return levels
