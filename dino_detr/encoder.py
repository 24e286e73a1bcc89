"""The deformable encoder over the tokens of all levels."""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_dino_detr import DinoDetrConfig
from .deformable_attention import MultiScaleDeformableAttention, PointSoftmax
from .feed_forward import FeedForward
from .levels import Levels
from .pretrained import DinoDetrPreTrainedModel


class DinoDetrEncoderLayer(GradientCheckpointingLayer):
    """Deformable self-attention and feed-forward, each followed by its residual and norm."""

    def __init__(self, config: DinoDetrConfig):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(
            config.d_model, config.encoder_attention_heads, config.num_feature_levels, config.encoder_n_points
        )
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.encoder_ffn_dim)
        self.ffn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, hidden_states: Tensor, position_embeddings: Tensor, reference_points: Tensor, levels: Levels
    ) -> Tensor:
        attended = self.self_attn(
            hidden_states + position_embeddings,
            hidden_states,
            reference_points,
            levels.spatial_shapes,
            levels.padding_mask,
        )
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        return self.ffn_layer_norm(hidden_states + self.ffn(hidden_states))


class DinoDetrEncoder(DinoDetrPreTrainedModel):
    """The layers, which refine all tokens, without a norm at the end."""

    _can_record_outputs = {
        "hidden_states": DinoDetrEncoderLayer,
        "attentions": OutputRecorder(PointSoftmax, index=0),
    }

    def __init__(self, config: DinoDetrConfig):
        super().__init__(config)  # without `post_init`, for the whole model initialises its parts
        self.layers = nn.ModuleList(DinoDetrEncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, hidden_states: Tensor, position_embeddings: Tensor, levels: Levels) -> Tensor:
        """
        Args:
            hidden_states: `[B, S, D]`, the neck's maps flattened, finest first.
            position_embeddings: `[B, S, D]`, sine position plus level embedding.

        Returns:
            `[B, S, D]`, the memory.
        """
        # each cell's own centre, on every level's map: [B, S, levels, 2]
        reference_points = levels.centres[:, :, None] * levels.valid_ratios[:, None]
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings, reference_points, levels)
        return hidden_states

    @capture_outputs
    def capture(self, *inputs: Tensor | Levels, **kwargs: Any) -> BaseModelOutput:
        """Run `forward`; `output_hidden_states` and `output_attentions` add what `_can_record_outputs` names."""
        return BaseModelOutput(last_hidden_state=self(*inputs))
