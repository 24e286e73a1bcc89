"""Deformable sampling on a CPU: weighted sums of gathered rows (`embedding_bag`), a block of queries at a time."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK = 2**19  # samples that are worked on together: enough for all threads, and few to keep
_BORDER = 2  # cells of zeros beyond a map: a location, clamped to them, has four cells around it wherever it is

with warnings.catch_warnings():
    # torch says once in a process that sparse tensors are in beta, and says it here, to nobody. A filter lasts only
    # as long as others leave the filters alone; one set around each use makes Python show other warnings again.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1))


class GatherSampling(torch.autograd.Function):
    """
    What `plain_sampling` defines, in less time and memory than a `grid_sample` of each level.

    Nothing but the inputs is kept for the backward pass. There the gradients of the values are sums of gathered rows
    as well: of the samples sorted by cell.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, spatial_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """
        `[B, S, heads, head_dim]`, float32 or float64 `[B, Q, heads, levels, points, 2]`, and without the 2.

        The sums are in the dtype of the locations, whatever the values are.
        """
        ctx.save_for_backward(value, locations, weights)
        ctx.spatial_shapes = spatial_shapes
        samples = _Samples(value, locations, weights, spatial_shapes)
        output = value.new_empty(samples.num_bags, value.shape[3])
        for bags in samples.blocks():
            cells, right, lower, weight = samples.locate(bags)
            rows = cells[:, None] + samples.corners  # [bags, 4, per_bag]
            shares = torch.empty(rows.shape, dtype=weight.dtype)
            _share(weight, right, lower, shares.unbind(1))
            output[bags] = F.embedding_bag(
                rows.flatten(1), samples.table, mode="sum", per_sample_weights=shares.flatten(1)
            )
        return output.view(*locations.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        value, locations, weights = ctx.saved_tensors
        samples = _Samples(value, locations, weights, ctx.spatial_shapes)
        gradient = gradient.reshape(samples.num_bags, -1).to(locations.dtype)
        all_cells = locations.new_empty(samples.num_bags, samples.per_bag, dtype=torch.int32)
        all_shares = weights.new_empty(4, samples.num_bags, samples.per_bag)
        locations_gradient = torch.empty_like(samples.locations)
        weights_gradient = torch.empty_like(samples.weights)
        for bags in samples.blocks():
            cells, right, lower, weight = samples.locate(bags)
            all_cells[bags] = cells
            _share(weight, right, lower, all_shares[:, bags].unbind())
            here, east, south, both = (samples.products(gradient[bags], cells + corner) for corner in samples.corners)
            south, both = south.sub_(here), both.sub_(east)  # slopes, down in this column and in the next
            twist = both.sub_(south)
            east = torch.addcmul(east.sub_(here), lower, twist)
            weights_gradient[bags] = here.addcmul_(lower, south).addcmul_(right, east)
            torch.mul(east.mul_(weight), samples.widths, out=locations_gradient[bags, :, 0])
            south = south.addcmul_(right, twist)
            torch.mul(south.mul_(weight), samples.heights, out=locations_gradient[bags, :, 1])
        value_gradient = None
        if ctx.needs_input_grad[0]:
            value_gradient = samples.sum_by_cell(all_cells, all_shares, gradient).to(value.dtype)
        return value_gradient, locations_gradient.view_as(locations), weights_gradient.view_as(weights), None


class _Samples:
    """
    Values as the rows of a table, and the samples taken of them: a bag of `per_bag` for each image, query and head.

    In the table, of each image and head, every map has rows of zeros above and below, and each of its rows ends in
    zeros, which are also those before the next row. One head after the other: they have as many samples, and so threads
    that share out the table's rows as much to do. Half of all samples are in the last rows of a head, the coarse maps.
    """

    def __init__(self, value: Tensor, locations: Tensor, weights: Tensor, spatial_shapes: list[tuple[int, int]]):
        self.shape, self.spatial_shapes = value.shape, spatial_shapes
        batch_size, _, num_heads, _ = value.shape
        *_, num_points, _ = locations.shape
        self.locations = locations.reshape(-1, len(spatial_shapes) * num_points, 2)
        self.weights = weights.reshape(self.locations.shape[:2])
        self.num_bags, self.per_bag = self.weights.shape

        self.starts, self.num_cells = [], _BORDER  # of an image and head
        for height, width in spatial_shapes:
            self.starts.append(self.num_cells)
            self.num_cells += (height + 2 * _BORDER) * (width + _BORDER)
        self.num_cells += max(width for _, width in spatial_shapes) + 2 * _BORDER  # for the corners of the last
        table = locations.new_zeros(batch_size, num_heads, self.num_cells, value.shape[3])
        for level, part in enumerate(value.transpose(1, 2).split([h * w for h, w in spatial_shapes], dim=2)):
            window = self._window(table, level)
            window.copy_(part.unflatten(2, spatial_shapes[level]))
        self.table = table.flatten(0, 2)

        def per_sample(values: list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype).repeat_interleave(num_points)

        self.heights = per_sample([height for height, _ in spatial_shapes], locations.dtype)
        self.widths = per_sample([width for _, width in spatial_shapes], locations.dtype)
        # in rows of the table: from a cell to the one below and to the other corners; of each map, of each bag's head
        self._pitches = per_sample([width + _BORDER for _, width in spatial_shapes], torch.int32)
        none = torch.zeros_like(self._pitches)
        self.corners = torch.stack([none, none + 1, self._pitches, self._pitches + 1])  # [4, per_bag]
        self._maps = per_sample([start - _BORDER for start in self.starts], torch.int32)
        heads = torch.arange(batch_size * num_heads, dtype=torch.int32).view(batch_size, 1, num_heads) * self.num_cells
        self._heads = heads.expand(-1, locations.shape[1], -1).reshape(-1, 1)  # [bags, 1]

    def blocks(self) -> Iterator[slice]:
        step = max(1, _BLOCK // self.per_bag)
        return (slice(start, start + step) for start in range(0, self.num_bags, step))

    def locate(self, bags: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `[bags, per_bag]` each: row of the upper left cell, the shares right and down of it, the weight."""
        x, right = _clamp(self.locations[bags, :, 0], self.widths)
        y, lower = _clamp(self.locations[bags, :, 1], self.heights)
        cells = torch.addcmul(self._heads[bags] + self._maps, y, self._pitches).add_(x)
        # of NaN any cell will do, for the share is NaN as well
        return cells.clamp_(0, len(self.table) - 1 - int(self.corners.max())), right, lower, self.weights[bags]

    def products(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """Return inner products `[bags, per_bag]` of each bag's gradient `[bags, head_dim]` and rows of the table."""
        starts = torch.arange(0, rows.numel() + 1, self.per_bag, dtype=torch.int32)
        products = torch.zeros(rows.shape, dtype=gradient.dtype)
        at_rows = torch.sparse_csr_tensor(
            starts, rows.flatten(), products.flatten(), (len(rows), len(self.table)), check_invariants=False
        )
        torch.sparse.sampled_addmm(at_rows, gradient, self.table.t(), beta=0.0, out=at_rows)
        return products

    def sum_by_cell(self, cells: Tensor, shares: Tensor, gradient: Tensor) -> Tensor:
        """
        The gradient of the values, `[B, S, heads, head_dim]`.

        Args:
            cells: of all samples, `[bags, per_bag]`.
            shares: of their corners in the output, `[4, bags, per_bag]`.
            gradient: of the output, `[bags, head_dim]`.
        """
        cells, order = cells.flatten().sort()
        shares = shares.flatten(1).gather(1, order.expand(4, -1))  # four rows, for threads share out rows
        bag_of = order.floor_divide_(self.per_bag)
        starts = torch.searchsorted(cells, torch.arange(len(self.table), dtype=torch.int32))
        total = gradient.new_zeros(self.shape)
        for corner in range(4):
            sums = F.embedding_bag(bag_of, gradient, starts, mode="sum", per_sample_weights=shares[corner])
            sums = sums.view(self.shape[0], self.shape[2], self.num_cells, self.shape[3])
            for level, part in enumerate(total.split([h * w for h, w in self.spatial_shapes], dim=1)):
                window = self._window(sums, level, corner % 2, corner // 2)
                part.unflatten(1, self.spatial_shapes[level]).add_(window.permute(0, 2, 3, 1, 4))
        return total

    def _window(self, table: Tensor, level: int, left: int = 0, up: int = 0) -> Tensor:
        """Return a map's cells, or those so far left and up: `[B, heads, cells, D]` -> `[B, heads, h, w, D]`."""
        height, width = self.spatial_shapes[level]
        pitch = width + _BORDER
        start = self.starts[level] + (_BORDER - up) * pitch - left
        return table[:, :, start : start + height * pitch].unflatten(2, (height, pitch))[:, :, :, :width]


def _clamp(location: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """Return, along one axis, the cell before the location, counted from the border, and the share of the next."""
    position = torch.addcmul(location.new_tensor(_BORDER - 0.5), location, extent)
    position = position.clamp_(min=0).minimum(extent + _BORDER)
    return position.to(torch.int32), position.frac()


def _share(weight: Tensor, right: Tensor, lower: Tensor, shares: tuple[Tensor, ...]) -> None:
    """Write what the upper left, upper right, lower left and lower right cells have in the output."""
    upper_left, upper_right, lower_left, lower_right = shares
    torch.mul(weight, lower, out=lower_left)
    torch.sub(weight, lower_left, out=upper_left)
    for left, share in ((upper_left, upper_right), (lower_left, lower_right)):
        torch.mul(left, right, out=share)
        left.sub_(share)
