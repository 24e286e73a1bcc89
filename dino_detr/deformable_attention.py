"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cpu_linear import is_untouched, linear
from .deformable_gather import GatherSampling
from .deformable_triton import TritonSampling, triton_works

SAMPLING = ("auto", "plain", "gather", "triton")


def plain_sampling(
    value: Tensor, spatial_shapes: list[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """
    Bilinear samples of all levels, summed with their attention weights. This is the definition, in plain PyTorch.

    Args:
        value: `[B, S, heads, head_dim]`, the levels one after the other, S = sum of h * w.
        spatial_shapes: (h, w) of each level.
        sampling_locations: `[B, Q, heads, levels, points, 2]` as (x, y) in 0..1 of each map; outside it is zero.
        attention_weights: `[B, Q, heads, levels, points]`.

    Returns:
        `[B, Q, heads * head_dim]`, in the dtype of `value`.
    """
    batch_size, _, num_heads, head_dim = value.shape
    num_queries = sampling_locations.shape[1]
    # grid_sample takes one dtype: locations need float32, so values meet them there
    maps = value.to(sampling_locations.dtype).permute(0, 2, 3, 1).flatten(0, 1)  # [B*heads, head_dim, S]
    # points before queries, so that sums over points run through memory in order, here and in exported graphs
    grids = (2 * sampling_locations - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)  # [B*heads, levels, points, Q, 2]
    weights = attention_weights.to(maps.dtype).permute(0, 2, 3, 4, 1).flatten(0, 1)  # [B*heads, levels, points, Q]

    outputs = []
    for level, level_map in enumerate(maps.split([h * w for h, w in spatial_shapes], dim=2)):
        samples = F.grid_sample(
            level_map.unflatten(2, spatial_shapes[level]),
            grids[:, level],
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )  # [B*heads, head_dim, points, Q]
        outputs.append((samples * weights[:, None, level]).sum(2))
    output = sum(outputs[1:], outputs[0]).view(batch_size, num_heads * head_dim, num_queries)
    return output.transpose(1, 2).to(value.dtype)


def gathered_sampling(
    value: Tensor, spatial_shapes: list[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """
    Sample as `plain_sampling` does, in operators that every runtime has: four rows of a table a sample, weighted.

    It is for exported graphs; in PyTorch itself `plain_sampling` is faster.
    """
    batch_size, num_tokens, num_heads, head_dim = value.shape
    device = value.device
    table = value.reshape(-1, head_dim)  # a row for each image, token and head
    images = torch.arange(batch_size, device=device).view(-1, 1, 1, 1) * num_tokens
    heads = torch.arange(num_heads, device=device).view(1, 1, -1, 1)
    corners = torch.tensor([0.0, 1.0], device=device)
    output, first = value.new_zeros(()).to(sampling_locations.dtype), 0
    for level, (height, width) in enumerate(spatial_shapes):
        size = torch.tensor([width, height], device=device)
        positions = sampling_locations[:, :, :, level] * size - 0.5  # in cells
        cells = positions.floor()[..., None] + corners  # [B, Q, heads, points, (x, y), 2]
        nearest = cells.clamp(min=0).minimum(size[:, None] - 1)
        shares = (1 - (positions[..., None] - cells).abs()) * (nearest == cells)  # of a cell outside none
        columns, rows = nearest.unbind(-2)
        column_shares, row_shares = shares.unbind(-2)
        tokens = (rows[..., :, None] * width + columns[..., None, :]).flatten(-3).long() + first
        row_shares = row_shares * attention_weights[:, :, :, level, :, None]
        weights = (row_shares[..., :, None] * column_shares[..., None, :]).flatten(-3)  # [B, Q, heads, points * 4]
        samples = F.embedding((images + tokens) * num_heads + heads, table)
        output = output + torch.matmul(weights[..., None, :], samples.to(weights.dtype))
        first += height * width
    return output.flatten(2).to(value.dtype)


def deformable_sampling(
    value: Tensor,
    spatial_shapes: list[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    sampling: str = "auto",
) -> Tensor:
    """
    Sample as `plain_sampling` does, in one of the ways of `SAMPLING`.

    `auto` is `triton` on a GPU where it works, `gather` on a CPU, else `plain`; under `torch.compile`, which fuses what
    `gather` does in blocks, a CPU has `plain`. All give the same but for rounding. Exporters and `torch.jit.trace` see
    PyTorch's own operators only: those of `gathered_sampling` if `gather` was chosen, else those of `plain`.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        sample = gathered_sampling if sampling == "gather" else plain_sampling
        return sample(value, spatial_shapes, sampling_locations, attention_weights)
    if sampling == "auto":
        sampling = _fastest_sampling(value)
    if sampling == "triton":
        return TritonSampling.apply(value, sampling_locations, attention_weights, spatial_shapes)
    if sampling == "gather":
        return GatherSampling.apply(value, sampling_locations, attention_weights, spatial_shapes)
    return plain_sampling(value, spatial_shapes, sampling_locations, attention_weights)


def _fastest_sampling(value: Tensor) -> str:
    if value.device.type == "cpu":
        return "plain" if torch.compiler.is_compiling() else "gather"
    if value.device.type == "cuda" and triton_works(value.device, value.dtype):
        return "triton"
    return "plain"


class PointSoftmax(nn.Module):
    """Softmax over the points of all levels; a module, so that transformers can capture the attention weights."""

    def forward(self, logits: Tensor) -> Tensor:
        """Normalise `[B, Q, heads, levels, points]` over its last two dimensions."""
        return logits.flatten(3).softmax(-1).view_as(logits)


class MultiScaleDeformableAttention(nn.Module):
    """
    Each query looks at a few learned points around its reference on every level.

    `sampling`, an attribute, is how it samples: one of `SAMPLING`.
    """

    sampling = "auto"

    def __init__(self, d_model: int, num_heads: int, num_levels: int, num_points: int):
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(d_model, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(d_model, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.softmax = PointSoftmax()

    def forward(
        self,
        hidden_states: Tensor,
        memory: Tensor,
        reference_points: Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            hidden_states: `[B, Q, D]`, position already added.
            memory: `[B, S, D]`, what is looked at.
            reference_points: float32, `[B, Q, levels, 2]` as (x, y) or `[B, Q, levels, 4]` as (cx, cy, w, h) in 0..1
                of each level's map; with boxes the offsets are in half box sizes, otherwise in cells.
            spatial_shapes: (h, w) of each level.
            padding_mask: bool `[B, S]`, True where `memory` is padding and contributes zero.

        Returns:
            `[B, Q, D]`.
        """
        batch_size, num_queries, _ = hidden_states.shape
        value = linear(self.value_proj, memory)
        if padding_mask is not None:
            # in place where nobody else has seen it, for it is large
            fill = value.masked_fill_ if is_untouched(self.value_proj) else value.masked_fill
            value = fill(padding_mask[..., None], 0.0)
        value = value.unflatten(2, (self.num_heads, -1))

        per_head = (batch_size, num_queries, self.num_heads, self.num_levels)
        offsets = linear(self.sampling_offsets, hidden_states).float().view(*per_head, self.num_points, 2)
        weights = linear(self.attention_weights, hidden_states).float().view(*per_head, self.num_points)
        weights = self.softmax(weights)

        # what is the same for all heads or points is repeated, so that the last three dimensions are run through as one
        reference_points = reference_points[:, :, None, :, None].expand(-1, -1, -1, -1, self.num_points, -1)
        if reference_points.shape[-1] == 2:
            cells = torch.tensor([[(w, h)] * self.num_points for h, w in spatial_shapes], dtype=torch.float32)
            cells = cells.to(offsets.device, non_blocking=True)
            locations = torch.addcdiv(reference_points.contiguous(), offsets, cells)
        else:
            half_sizes = reference_points[..., 2:] * 0.5
            locations = torch.addcmul(reference_points[..., :2].contiguous(), offsets / self.num_points, half_sizes)
        sampled = deformable_sampling(value, spatial_shapes, locations, weights, self.sampling)
        return linear(self.output_proj, sampled)

    def initial_offsets(self) -> Tensor:
        """Return the reference's first offsets: heads look in directions around the circle, points ever further."""
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)  # [heads, 2]
        direction = direction / direction.abs().max(-1, keepdim=True).values
        distance = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = direction[:, None, None] * distance[:, None]  # [heads, 1, points, 2]
        return offsets.expand(-1, self.num_levels, -1, -1).flatten()
