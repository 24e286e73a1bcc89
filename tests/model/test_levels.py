"""Where the tokens of each level lie, by hand."""

import math

import torch

from dino_detr.levels import locate_levels, sine_embedding
from dino_detr.query_selection import token_proposals

PIXEL_MASK = torch.zeros(2, 32, 64, dtype=torch.int64)
PIXEL_MASK[0], PIXEL_MASK[1, :16, :32] = 1, 1  # the whole batch; a quarter of it
SHAPES = [(2, 4), (1, 2)]


def test_tokens_lie_at_their_cells_relative_to_the_image():
    levels = locate_levels(SHAPES, PIXEL_MASK)
    assert levels.valid_ratios.tolist() == [[[1, 1], [1, 1]], [[0.5, 0.5], [0.5, 1]]]
    assert levels.padding_mask.tolist() == [[False] * 10, [False, False, True, True, *[True] * 4, False, True]]
    centres = torch.tensor(
        [(x / 4, y / 2) for y in (0.5, 1.5) for x in (0.5, 1.5, 2.5, 3.5)] + [(0.25, 0.5), (0.75, 0.5)]
    )
    torch.testing.assert_close(levels.centres[0], centres)
    torch.testing.assert_close(levels.centres[1, :8], centres[:8] * 2)
    torch.testing.assert_close(levels.centres[1, 8:], centres[8:] * torch.tensor([2.0, 1.0]))


def test_positions_count_only_the_image():
    whole, part = locate_levels(SHAPES, PIXEL_MASK).sine_positions(8, 10000, -0.5)[0]
    assert whole.shape == (8, 8)
    for embedding, cell, (y, x) in ((whole, 5, (0.75, 0.375)), (part, 1, (0.5, 0.75))):
        angles = [angle * 2 * math.pi / frequency for angle in (y, x) for frequency in (1, 100)]
        expected = torch.tensor([value for angle in angles for value in (math.sin(angle), math.cos(angle))])
        torch.testing.assert_close(embedding[cell], expected, atol=1e-5, rtol=0)


def test_sine_and_cosine_alternate_from_the_highest_frequency():
    expected = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    torch.testing.assert_close(sine_embedding(torch.tensor([2.0]), 4), torch.tensor([expected]))


def test_proposals_are_boxes_at_the_cells_that_double_with_the_level():
    """Invalid in the padding and where a side is within 0.01 of the border: of the whole image none, here."""
    levels = locate_levels(SHAPES, PIXEL_MASK)
    logits, valid = token_proposals(levels)
    assert torch.equal(valid[0], torch.ones(10, dtype=torch.bool)) and torch.equal(valid[1], ~levels.padding_mask[1])
    sizes = torch.tensor([0.05] * 8 + [0.1] * 2)[:, None].expand(10, 2)
    torch.testing.assert_close(logits[0].sigmoid(), torch.cat([levels.centres[0], sizes], dim=1))
    assert logits[1][~valid[1]].isinf().all()
