"""The decoder: queries attend to one another and to the memory, and refine their boxes layer by layer."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .boxes import inverse_sigmoid
from .deformable_attention import MultiScaleDeformableAttention
from .encoder import sine_embedding
from .linear import FeedForward, Linear, compute_dtype


class PredictionMLP(nn.Module):
    """Linear layers with ReLU between: `[..., in_dim]` -> `[..., out_dim]`."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        widths = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class QuerySelfAttention(nn.Module):
    """Multi-head attention among the queries; position is added to queries and keys, not to values."""

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(d_model, d_model)
        self.k_proj = Linear(d_model, d_model)
        self.v_proj = Linear(d_model, d_model)
        self.out_proj = Linear(d_model, d_model)

    def forward(self, hidden_states: Tensor, position_embeddings: Tensor, attention_mask: Tensor | None) -> Tensor:
        """`attention_mask`: `[N, N]`, what is added to the scores of rows for columns."""
        positioned = hidden_states + position_embeddings
        query, key, value = (
            projection(source).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, head_dim]
            for projection, source in (
                (self.q_proj, positioned),
                (self.k_proj, positioned),
                (self.v_proj, hidden_states),
            )
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class DinoDetrDecoderLayer(GradientCheckpointingLayer):
    """Self-attention, deformable cross-attention and feed-forward, each followed by its residual and norm."""

    def __init__(self, config):
        super().__init__()
        self.self_attn = QuerySelfAttention(config.d_model, config.decoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = MultiScaleDeformableAttention(
            config.d_model, config.decoder_attention_heads, config.num_feature_levels, config.decoder_n_points
        )
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.decoder_ffn_dim)
        self.ffn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, hidden_states, position_embeddings, memory, reference_boxes, spatial_shapes, padding_mask, attention_mask
    ):
        attended = self.self_attn(hidden_states, position_embeddings, attention_mask)
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        attended = self.encoder_attn(
            hidden_states + position_embeddings, memory, reference_boxes, spatial_shapes, padding_mask
        )
        hidden_states = self.encoder_attn_layer_norm(hidden_states + attended)
        return self.ffn_layer_norm(hidden_states + self.ffn(hidden_states))


class DinoDetrDecoder(nn.Module):
    """Layers with iterative box refinement and look forward twice (DINO, section 3.5)."""

    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(DinoDetrDecoderLayer(config) for _ in range(config.decoder_layers))
        self.ref_point_head = PredictionMLP(2 * config.d_model, config.d_model, config.d_model, 2)
        self.norm = nn.LayerNorm(config.d_model)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Boxes `[B, N, 4]` cxcywh -> positions `[B, N, D]`; the reference's order is (y, x, w, h)."""
        d_model = self.norm.normalized_shape[0]
        boxes = torch.cat([boxes[..., 1:2], boxes[..., :1], boxes[..., 2:]], dim=-1)
        sine = sine_embedding(boxes * 2 * math.pi, d_model // 2).flatten(2)
        return self.ref_point_head(sine.to(self.norm.weight.dtype))

    def forward(
        self,
        hidden_states: Tensor,
        boxes: Tensor,
        memory: Tensor,
        valid_ratios: Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding_mask: Tensor,
        attention_mask: Tensor | None,
        bbox_embed: nn.ModuleList,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            hidden_states: `[B, N, D]`, the queries' content.
            boxes: float32 `[B, N, 4]` cxcywh, the queries' initial boxes.
            memory: `[B, S, D]`, the encoder's output.
            valid_ratios: float32 `[B, levels, 2]`, the share (of w, of h) of each map that is image.
            spatial_shapes: (h, w) of each level.
            padding_mask: bool `[B, S]`, True where a token is padding.
            attention_mask: bool `[N, N]`, True where row may attend to column; None: everywhere.
            bbox_embed: the box head of each layer.

        Returns:
            (`[L, B, N, D]` each layer's output, normed; float32 `[L, B, N, 4]` the boxes each layer's prediction
            starts from. Those are not detached: the gradient of a layer's prediction reaches the refinement before
            it, which is what look forward twice means.)
        """
        if attention_mask is not None:  # once, or attention would do it in every layer
            scores = torch.zeros_like(attention_mask, dtype=compute_dtype(hidden_states))
            attention_mask = scores.masked_fill(~attention_mask, float("-inf"))
        scale = torch.cat([valid_ratios, valid_ratios], dim=-1)[:, None]  # [B, 1, levels, 4]
        outputs, references = [], [boxes]
        for index, layer in enumerate(self.layers):
            on_levels = boxes[:, :, None] * scale  # [B, N, levels, 4]
            hidden_states = layer(
                hidden_states,
                self.embed_boxes(on_levels[:, :, 0]),
                memory,
                on_levels,
                spatial_shapes,
                padding_mask,
                attention_mask,
            )
            outputs.append(self.norm(hidden_states))
            if index + 1 < len(self.layers):
                refined = (bbox_embed[index](hidden_states).float() + inverse_sigmoid(boxes)).sigmoid()
                references.append(refined)
                boxes = refined.detach()
        return torch.stack(outputs), torch.stack(references)
