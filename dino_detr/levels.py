"""The levels of the pyramid as one sequence of tokens: where each token lies, and what is image."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 10000  # of the embedding of boxes, in all recipes


class Levels(NamedTuple):
    """
    Where the `S` tokens of a batch lie: the levels' maps flattened one after the other, finest first.

    It is a tuple, so that whatever moves or watches the tensors given to a module finds these too.

    Args:
        spatial_shapes: (h, w) of each level.
        valid_ratios: float32 `[B, levels, 2]`, the share (of w, of h) of each map that is image.
        padding_mask: bool `[B, S]`, True where a token is padding.
        centres: float32 `[B, S, 2]` as (x, y), each cell's centre, 0..1 within the image, beyond 1 in the padding.
    """

    spatial_shapes: list[tuple[int, int]]
    valid_ratios: Tensor
    padding_mask: Tensor
    centres: Tensor

    def sine_positions(self, d_model: int, temperature: float, offset: float) -> list[Tensor]:
        """Return the position embedding of each level's cells, float32 `[B, h * w, d_model]`."""
        masks = self.padding_mask.split([h * w for h, w in self.spatial_shapes], dim=1)
        return [
            sine_position_embedding(~mask.unflatten(1, shape), d_model, temperature, offset).flatten(1, 2)
            for mask, shape in zip(masks, self.spatial_shapes)
        ]


def locate_levels(spatial_shapes: list[tuple[int, int]], pixel_mask: Tensor) -> Levels:
    """
    Find what of each level is image.

    Args:
        spatial_shapes: (h, w) of each level.
        pixel_mask: `[B, H, W]`, 1 = image, 0 = padding at the right and bottom.
    """
    masks = [F.interpolate(pixel_mask[:, None].float(), size=shape)[:, 0] > 0 for shape in spatial_shapes]
    valid_ratios = torch.stack(
        [torch.stack([mask[:, 0].float().mean(1), mask[:, :, 0].float().mean(1)], dim=-1) for mask in masks], dim=1
    )
    padding_mask = ~torch.cat([mask.flatten(1) for mask in masks], dim=1)
    return Levels(spatial_shapes, valid_ratios, padding_mask, cell_centres(spatial_shapes, valid_ratios))


def cell_centres(spatial_shapes: list[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """Return the centres of all cells relative to each level's image part (see `Levels`)."""
    centres = []
    for level, (h, w) in enumerate(spatial_shapes):
        y = (torch.arange(h, dtype=torch.float32, device=valid_ratios.device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=valid_ratios.device) + 0.5) / w
        grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1).flatten(0, 1)  # [h*w, 2]
        centres.append(grid / valid_ratios[:, None, level])
    return torch.cat(centres, dim=1)


def sine_embedding(positions: Tensor, num_features: int, temperature: float = TEMPERATURE) -> Tensor:
    """
    Sine and cosine of positions at geometrically spaced frequencies (Attention Is All You Need, section 3.5).

    Args:
        positions: `[...]`, in radians (0..2*pi over the image).
        num_features: features per position, even.
        temperature: the largest wavelength, in units of the smallest.

    Returns:
        float32 `[..., num_features]`, sine and cosine alternating.
    """
    frequencies = temperature ** (
        torch.arange(0, num_features, 2, dtype=torch.float32, device=positions.device) / num_features
    )
    angles = positions.float()[..., None] / frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def sine_position_embedding(
    valid: Tensor, d_model: int, temperature: float = TEMPERATURE, offset: float = -0.5
) -> Tensor:
    """
    Position of each cell within the image, 0..2*pi at the image's far edge, padding not counted.

    Args:
        valid: bool `[B, h, w]`, True where the cell is image.
        offset: what is added to the cells' numbers, which start at 1; -0.5 embeds their centres.

    Returns:
        float32 `[B, h, w, d_model]`, the y half first.
    """
    y, x = valid.cumsum(1, dtype=torch.float32), valid.cumsum(2, dtype=torch.float32)
    y = (y + offset) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = (x + offset) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat([sine_embedding(axis, d_model // 2, temperature) for axis in (y, x)], dim=-1)
