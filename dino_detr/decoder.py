"""The decoder: queries attend to one another and to the memory, and refine their boxes layer by layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .boxes import inverse_sigmoid
from .configuration_dino_detr import DinoDetrConfig
from .cpu_linear import linear
from .deformable_attention import MultiScaleDeformableAttention, PointSoftmax
from .feed_forward import FeedForward, compute_dtype
from .initialization import initialize, xavier
from .levels import Levels, sine_embedding
from .pretrained import DinoDetrPreTrainedModel


class PredictionMLP(nn.Module):
    """Linear layers with ReLU between: `[..., in_dim]` -> `[..., out_dim]`."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        widths = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(linear(layer, x))
        return linear(self.layers[-1], x)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attend, and return (`[B, N, heads, head_dim]`, weights `[B, heads, N, N]`)."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class QuerySelfAttention(nn.Module):
    """
    Multi-head attention among the queries; position is added to queries and keys, not to values.

    It is computed as the configuration's `attn_implementation` says: `sdpa`, `eager`, or what was registered with
    transformers' `AttentionInterface`.
    """

    is_causal = False

    def __init__(self, config: DinoDetrConfig):
        super().__init__()
        self.config, d_model = config, config.d_model
        self.num_heads = config.decoder_attention_heads
        self.scaling = (d_model // self.num_heads) ** -0.5
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self, hidden_states: Tensor, position_embeddings: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            hidden_states, position_embeddings: `[B, N, D]`.
            attention_mask: `[1, 1, N, N]`, what is added to the scores of rows for columns.

        Returns:
            (`[B, N, D]`; weights `[B, heads, N, N]`, or None where the implementation does not compute them).
        """
        positioned = hidden_states + position_embeddings
        query, key, value = (
            linear(projection, source).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, head_dim]
            for projection, source in (
                (self.q_proj, positioned),
                (self.k_proj, positioned),
                (self.v_proj, hidden_states),
            )
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation,  # pyright: ignore[reportArgumentType] set when the model is made
            eager_attention_forward,
        )
        attended, weights = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling)
        return linear(self.out_proj, attended.flatten(2)), weights


class DinoDetrDecoderLayer(GradientCheckpointingLayer):
    """Self-attention, deformable cross-attention and feed-forward, each followed by its residual and norm."""

    def __init__(self, config: DinoDetrConfig):
        super().__init__()
        self.self_attn = QuerySelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = MultiScaleDeformableAttention(
            config.d_model, config.decoder_attention_heads, config.num_feature_levels, config.decoder_n_points
        )
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.decoder_ffn_dim)
        self.ffn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Tensor,
        memory: Tensor,
        reference_boxes: Tensor,
        levels: Levels,
        attention_mask: Tensor | None,
    ) -> Tensor:
        attended, _ = self.self_attn(hidden_states, position_embeddings, attention_mask)
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        attended = self.encoder_attn(
            hidden_states + position_embeddings, memory, reference_boxes, levels.spatial_shapes, levels.padding_mask
        )
        hidden_states = self.encoder_attn_layer_norm(hidden_states + attended)
        return self.ffn_layer_norm(hidden_states + self.ffn(hidden_states))


@dataclass
class DinoDetrDecoderOutput(BaseModelOutputWithCrossAttentions):
    """
    The decoder's output and what was captured of it.

    Args:
        hidden_states_per_layer (`[L, B, N, D]`): each layer's output, normed.
        reference_boxes_per_layer (float32 `[L, B, N, 4]`): the cxcywh boxes each layer's prediction starts from.
    """

    hidden_states_per_layer: Tensor | None = None
    reference_boxes_per_layer: Tensor | None = None


class DinoDetrDecoder(DinoDetrPreTrainedModel):
    """Layers with iterative box refinement and look forward twice (DINO, section 3.5)."""

    _can_record_outputs = {
        "hidden_states": DinoDetrDecoderLayer,
        "attentions": OutputRecorder(QuerySelfAttention, index=1),
        "cross_attentions": OutputRecorder(PointSoftmax, index=0),
    }

    def __init__(self, config: DinoDetrConfig):
        super().__init__(config)  # without `post_init`, for the whole model initialises its parts
        self.layers = nn.ModuleList(DinoDetrDecoderLayer(config) for _ in range(config.decoder_layers))
        self.ref_point_head = PredictionMLP(2 * config.d_model, config.d_model, config.d_model, 2)
        self.norm = nn.LayerNorm(config.d_model)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Embed boxes `[B, N, 4]` cxcywh as positions `[B, N, D]`, in the reference's order (y, x, w, h)."""
        d_model = self.norm.normalized_shape[0]
        boxes = torch.cat([boxes[..., 1:2], boxes[..., :1], boxes[..., 2:]], dim=-1)
        sine = sine_embedding(boxes * 2 * math.pi, d_model // 2).flatten(2)
        return self.ref_point_head(sine.to(self.norm.weight.dtype))

    def forward(
        self,
        hidden_states: Tensor,
        boxes: Tensor,
        memory: Tensor,
        levels: Levels,
        attention_mask: Tensor | None,
        box_head: Callable[[int, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            hidden_states: `[B, N, D]`, the queries' content.
            boxes: float32 `[B, N, 4]` cxcywh, the queries' initial boxes.
            memory: `[B, S, D]`, the encoder's output.
            attention_mask: bool `[N, N]`, True where row may attend to column; None: everywhere.
            box_head: from a layer's number and output to what it changes of the boxes; not as modules, which accelerate
                would take for inputs to move.

        Returns:
            (`[L, B, N, D]` each layer's output, normed; float32 `[L, B, N, 4]` the boxes each layer's prediction
            starts from. Those are not detached: the gradient of a layer's prediction reaches the refinement before
            it, which is what look forward twice means.)
        """
        if attention_mask is not None:  # once, or attention would do it in every layer
            scores = torch.zeros_like(attention_mask, dtype=compute_dtype(hidden_states))
            attention_mask = scores.masked_fill(~attention_mask, float("-inf"))[None, None]
        scale = levels.valid_ratios.repeat(1, 1, 2)[:, None]  # [B, 1, levels, 4]
        outputs, references = [], [boxes]
        for index, layer in enumerate(self.layers):
            on_levels = boxes[:, :, None] * scale  # [B, N, levels, 4]
            positions = self.embed_boxes(on_levels[:, :, 0])
            hidden_states = layer(hidden_states, positions, memory, on_levels, levels, attention_mask)
            outputs.append(self.norm(hidden_states))
            if index + 1 < len(self.layers):
                refined = (box_head(index, hidden_states).float() + inverse_sigmoid(boxes)).sigmoid()
                references.append(refined)
                boxes = refined.detach()
        return torch.stack(outputs), torch.stack(references)

    @capture_outputs
    def capture(self, *inputs: Any, **kwargs: Any) -> DinoDetrDecoderOutput:
        """Run `forward`; `output_hidden_states` and `output_attentions` add what `_can_record_outputs` names."""
        hidden_states, references = self(*inputs)
        return DinoDetrDecoderOutput(
            last_hidden_state=hidden_states[-1],
            hidden_states_per_layer=hidden_states,
            reference_boxes_per_layer=references,
        )


@initialize.register
def _query_self_attention(module: QuerySelfAttention) -> None:
    for projection in (module.q_proj, module.k_proj, module.v_proj):
        xavier(projection, gain=1 / math.sqrt(2))  # the reference initialises the three as one [3D, D] matrix
    xavier(module.out_proj)


@initialize.register
def _decoder(module: DinoDetrDecoder) -> None:
    for layer in module.ref_point_head.layers:
        init.xavier_uniform_(layer.get_parameter("weight"))
