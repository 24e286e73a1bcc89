"""The deformable encoder over the tokens of all levels."""

import math

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .deformable_attention import MultiScaleDeformableAttention, PointSoftmax
from .linear import FeedForward
from .pretrained import DinoDetrPreTrainedModel

TEMPERATURE = 10000


def sine_embedding(positions: Tensor, num_features: int) -> Tensor:
    """
    Sine and cosine of positions at geometrically spaced frequencies (Attention Is All You Need, section 3.5).

    Args:
        positions: `[...]`, in radians (0..2*pi over the image).
        num_features: features per position, even.

    Returns:
        float32 `[..., num_features]`, sine and cosine alternating.
    """
    frequencies = TEMPERATURE ** (
        torch.arange(0, num_features, 2, dtype=torch.float32, device=positions.device) / num_features
    )
    angles = positions.float()[..., None] / frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def sine_position_embedding(valid: Tensor, d_model: int) -> Tensor:
    """
    Position of each cell within the image, 0..2*pi at the image's far edge, padding not counted.

    Args:
        valid: bool `[B, h, w]`, True where the cell is image.

    Returns:
        float32 `[B, h, w, d_model]`, the y half first.
    """
    y, x = valid.cumsum(1, dtype=torch.float32), valid.cumsum(2, dtype=torch.float32)
    y = (y - 0.5) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = (x - 0.5) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat([sine_embedding(y, d_model // 2), sine_embedding(x, d_model // 2)], dim=-1)


def cell_centres(spatial_shapes: list[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """
    Centres of all cells relative to each level's image part.

    Args:
        spatial_shapes: (h, w) of each level.
        valid_ratios: `[B, levels, 2]`, the share (of w, of h) of each map that is image.

    Returns:
        float32 `[B, S, 2]` as (x, y), 0..1 within the image, beyond 1 in the padding.
    """
    centres = []
    for level, (h, w) in enumerate(spatial_shapes):
        y = (torch.arange(h, dtype=torch.float32, device=valid_ratios.device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=valid_ratios.device) + 0.5) / w
        grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1).flatten(0, 1)  # [h*w, 2]
        centres.append(grid / valid_ratios[:, None, level])
    return torch.cat(centres, dim=1)


class DinoDetrEncoderLayer(GradientCheckpointingLayer):
    """Deformable self-attention and feed-forward, each followed by its residual and norm."""

    def __init__(self, config):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(
            config.d_model, config.encoder_attention_heads, config.num_feature_levels, config.encoder_n_points
        )
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.encoder_ffn_dim)
        self.ffn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden_states, position_embeddings, reference_points, spatial_shapes, padding_mask):
        attended = self.self_attn(
            hidden_states + position_embeddings, hidden_states, reference_points, spatial_shapes, padding_mask
        )
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        return self.ffn_layer_norm(hidden_states + self.ffn(hidden_states))


class DinoDetrEncoder(DinoDetrPreTrainedModel):
    """Refines all tokens; no norm at the end."""

    _can_record_outputs = {
        "hidden_states": DinoDetrEncoderLayer,
        "attentions": OutputRecorder(PointSoftmax, index=0),
    }

    def __init__(self, config):
        super().__init__(config)  # without `post_init`, for the whole model initialises its parts
        self.layers = nn.ModuleList(DinoDetrEncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Tensor,
        reference_points: Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding_mask: Tensor,
    ) -> Tensor:
        """
        Args:
            hidden_states: `[B, S, D]`, the neck's maps flattened, finest first.
            position_embeddings: `[B, S, D]`, sine position plus level embedding.
            reference_points: float32 `[B, S, levels, 2]`, each cell's own centre on every level's map.
            spatial_shapes: (h, w) of each level.
            padding_mask: bool `[B, S]`, True where a token is padding.

        Returns:
            `[B, S, D]`, the memory.
        """
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings, reference_points, spatial_shapes, padding_mask)
        return hidden_states

    @capture_outputs
    def capture(self, *inputs, **kwargs) -> BaseModelOutput:
        """Run `forward`; `output_hidden_states` and `output_attentions` add what `_can_record_outputs` names."""
        return BaseModelOutput(last_hidden_state=self(*inputs))
