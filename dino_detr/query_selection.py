"""Two-stage query selection: the encoder's best tokens propose the decoder's initial boxes (DINO, section 3.4)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .cpu_linear import linear
from .levels import Levels


def token_proposals(levels: Levels) -> tuple[Tensor, Tensor]:
    """
    The box each token stands for: at its cell, 0.05 wide on the finest level and doubling.

    Returns:
        (float32 `[B, S, 4]` logits of cxcywh, +inf where invalid; bool `[B, S]`, True where valid: in the image and
        more than 0.01 from its borders in every coordinate).
    """
    size = torch.cat([torch.full((h * w,), 0.05 * 2.0**level) for level, (h, w) in enumerate(levels.spatial_shapes)])
    size = size.to(levels.centres.device, non_blocking=True)  # [S]
    boxes = torch.cat([levels.centres, size[:, None].expand_as(levels.centres)], dim=-1)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1) & ~levels.padding_mask
    logits = torch.log(boxes / (1 - boxes)).masked_fill(~valid[..., None], float("inf"))
    return logits, valid


class QuerySelection(nn.Module):
    """Scores every token with the encoder's class head and keeps the best as initial boxes."""

    def __init__(self, d_model: int):
        super().__init__()
        self.enc_output = nn.Linear(d_model, d_model)
        self.enc_output_norm = nn.LayerNorm(d_model)

    def forward(
        self,
        memory: Tensor,
        levels: Levels,
        class_head: Callable[[Tensor], Tensor],
        box_head: Callable[[Tensor], Tensor],
        num_queries: int,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            memory: `[B, S, D]`, the encoder's output.
            class_head, box_head: the encoder's heads; not as modules, which accelerate would take for inputs to move.
            num_queries: tokens to keep; at most S are.

        Returns:
            (float32 logits `[B, Q, K]`, float32 boxes `[B, Q, 4]` cxcywh in 0..1), best token first.
        """
        proposals, valid = token_proposals(levels)
        memory = self.enc_output_norm(linear(self.enc_output, memory.masked_fill(~valid[..., None], 0.0)))
        logits = class_head(memory).float()
        best = logits.max(-1).values.topk(min(num_queries, memory.shape[1]), dim=1).indices  # [B, Q]

        def keep(tokens: Tensor) -> Tensor:
            return tokens.gather(1, best[..., None].expand(-1, -1, tokens.shape[-1]))

        # boxes are refined only where they are kept: the same numbers for a tenth of the work
        boxes = (box_head(keep(memory)).float() + keep(proposals)).sigmoid()
        return keep(logits), boxes
