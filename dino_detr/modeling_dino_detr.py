"""The DINO detector on any backbone: `DinoDetrModel`, `DinoDetrForObjectDetection` and their outputs."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers.processing_utils import Unpack  # pyright: ignore[reportAttributeAccessIssue]
from transformers.utils.generic import ModelOutput, TransformersKwargs, can_return_tuple

from .backbone import DinoDetrBackbone
from .boxes import inverse_sigmoid
from .configuration_dino_detr import DinoDetrConfig
from .cpu_linear import linear
from .decoder import DinoDetrDecoder, PredictionMLP
from .denoising import DenoisingQueries, draw_denoising_queries
from .encoder import DinoDetrEncoder
from .feature_pyramid import Neck, SimpleFeaturePyramid
from .initialization import initialize
from .levels import locate_levels
from .loss import TERMS, count_boxes, denoising_suffixes, dino_loss
from .padding import mask_from_labels
from .pretrained import DinoDetrPreTrainedModel
from .pretrained_backbone import DEFAULT_PATCH_SIZE, load_pretrained_backbone
from .query_selection import QuerySelection
from .targets import Targets

PASSED_ON = (  # from `DinoDetrModel`'s outputs to `DinoDetrForObjectDetection`'s
    "last_hidden_state", "encoder_last_hidden_state", "encoder_hidden_states", "decoder_hidden_states",
    "encoder_attentions", "decoder_attentions", "cross_attentions",
)  # fmt: skip
CLASS_PRIOR = 0.01  # so that the class biases start at -4.595 (focal loss, arXiv 1708.02002, section 4.1)


@dataclass
class DinoDetrModelOutput(ModelOutput):
    """
    Outputs of `DinoDetrModel`. `N` = `P` denoising queries, if any, then `Q` matching queries.

    Args:
        last_hidden_state (`[B, Q, D]`): the matching queries after the last decoder layer, normed.
        hidden_states_per_layer (`[L, B, N, D]`): all queries after each decoder layer, normed.
        reference_boxes_per_layer (float32 `[L, B, N, 4]`): the cxcywh boxes each layer's prediction starts from.
        encoder_last_hidden_state (`[B, S, D]`): the memory.
        encoder_logits (float32 `[B, Q, K]`): class logits of the selected tokens, best first.
        encoder_boxes (float32 `[B, Q, 4]`): their cxcywh boxes in 0..1.
        encoder_hidden_states (`[B, S, D]` each, with `output_hidden_states`): the tokens as they enter the encoder,
            then after each layer.
        decoder_hidden_states (`[B, N, D]` each, with `output_hidden_states`): the queries as they enter the decoder,
            then after each layer, the last normed.
        encoder_attentions (`[B, S, heads, levels, points]` each, with `output_attentions`): the encoder layers'.
        decoder_attentions (`[B, heads, N, N]` each, with `output_attentions` and eager attention): the queries' among
            themselves.
        cross_attentions (`[B, N, heads, levels, points]` each, with `output_attentions`): the queries' to the memory.
    """

    last_hidden_state: Tensor | None = None
    hidden_states_per_layer: Tensor | None = None
    reference_boxes_per_layer: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_logits: Tensor | None = None
    encoder_boxes: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class DinoDetrObjectDetectionOutput(ModelOutput):
    """
    Outputs of `DinoDetrForObjectDetection`.

    Args:
        loss (scalar, with `labels`): the weighted sum of `loss_dict`.
        loss_dict (`dict[str, scalar]`, with `labels`): the unweighted terms (see `dino_detr.loss.dino_loss`).
        logits (float32 `[B, Q, K]`): class logits; scores are their sigmoid.
        pred_boxes (float32 `[B, Q, 4]`): cxcywh in 0..1 of the unpadded image.
        last_hidden_state (`[B, Q, D]`): the queries after the last decoder layer.
        encoder_last_hidden_state (`[B, S, D]`): the memory.
        auxiliary_logits, auxiliary_boxes (`[L+1, B, Q, K]`, `[L+1, B, Q, 4]`, with `labels`): the predictions of
            every decoder layer, then of the encoder's head.
        denoising_logits, denoising_boxes (`[L, B, P, K]`, `[L, B, P, 4]`, with denoising queries): their predictions.
        encoder_hidden_states, decoder_hidden_states, encoder_attentions, decoder_attentions, cross_attentions: as
            those of `DinoDetrModelOutput`.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    last_hidden_state: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    auxiliary_logits: Tensor | None = None
    auxiliary_boxes: Tensor | None = None
    denoising_logits: Tensor | None = None
    denoising_boxes: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class DinoDetrModel(DinoDetrPreTrainedModel):
    """
    Backbone, pyramid (of a backbone that gives one map), neck, encoder, query selection and decoder.

    It holds the prediction heads of the `L` decoder layers, one of each kind if they are shared, and, last, of the
    encoder: the encoder's select the queries, the decoder's refine their boxes.
    """

    def __init__(self, config: DinoDetrConfig):
        super().__init__(config)
        self.backbone = DinoDetrBackbone(config)
        self.pyramid, channels = None, self.backbone.channels
        if factors := config.pyramid_scale_factors:
            extra_levels = config.num_feature_levels - len(factors)
            self.pyramid = SimpleFeaturePyramid(channels[-1], config.pyramid_channels, factors, extra_levels)
            channels = [config.pyramid_channels] * config.num_feature_levels
        self.neck = Neck(channels, config.d_model, config.num_feature_levels)
        num_labels: int = config.num_labels  # pyright: ignore[reportAssignmentType] never None in a whole configuration
        num_heads = 1 if config.share_decoder_heads else config.decoder_layers
        self.level_embed = nn.Parameter(torch.empty(config.num_feature_levels, config.d_model))
        self.encoder = DinoDetrEncoder(config)
        self.query_selection = QuerySelection(config.d_model)
        self.query_embed = nn.Embedding(config.num_queries, config.d_model)
        self.decoder = DinoDetrDecoder(config)
        self.class_embed = nn.ModuleList(nn.Linear(config.d_model, num_labels) for _ in range(num_heads))
        self.class_embed.append(nn.Linear(config.d_model, num_labels + config.num_unused_classes))
        self.bbox_embed = nn.ModuleList(
            PredictionMLP(config.d_model, config.d_model, 4, 3) for _ in range(num_heads + 1)
        )
        self.denoising_class_embed = nn.Embedding(num_labels, config.d_model)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        denoising_queries: DenoisingQueries | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DinoDetrModelOutput:
        """
        Args:
            pixel_values: `[B, 3, H, W]`, normalised, of any size.
            pixel_mask: `[B, H, W]`, 1 = image, 0 = padding at the right and bottom; None: no padding.
            denoising_queries: queries to run beside the matching ones.
            kwargs: `output_hidden_states` and `output_attentions`, by default the configuration's, and
                `return_dict`. Others are ignored, as by the models of transformers.

        Raises:
            ValueError: if `pixel_mask` has another shape than the images.
        """
        batch_size, _, height, width = pixel_values.shape
        if pixel_mask is None:
            pixel_mask = pixel_values.new_ones(batch_size, height, width)
        elif pixel_mask.shape != (batch_size, height, width):
            raise ValueError(
                f"pixel_mask must be {[batch_size, height, width]} as pixel_values is {list(pixel_values.shape)}, "
                f"not {list(pixel_mask.shape)}"
            )
        maps = self.backbone(pixel_values)
        maps = self.neck(maps if self.pyramid is None else self.pyramid(maps[-1]))
        tokens = torch.cat([feature_map.flatten(2).transpose(1, 2) for feature_map in maps], dim=1)  # [B, S, D]
        levels = locate_levels([tuple(feature_map.shape[-2:]) for feature_map in maps], pixel_mask)
        config = self.config
        sines = levels.sine_positions(
            config.d_model, config.position_embedding_temperature, config.position_embedding_offset
        )
        positions = torch.cat([sine + level for sine, level in zip(sines, self.level_embed)], dim=1)
        options = {**kwargs, "return_dict": True}
        encoded = self.encoder.capture(tokens, positions.to(tokens.dtype), levels, **options)
        memory = encoded.last_hidden_state

        encoder_logits, encoder_boxes = self.query_selection(
            memory, levels, partial(linear, self.class_embed[-1]), partial(self._refine, -1), config.num_queries
        )
        encoder_logits = encoder_logits[..., : config.num_labels]  # the rest has done its part: it competed
        queries, boxes, attention_mask = self._initial_queries(encoder_boxes.detach(), denoising_queries)
        decoded = self.decoder.capture(queries, boxes, memory, levels, attention_mask, self._refine, **options)
        return DinoDetrModelOutput(
            last_hidden_state=decoded["hidden_states_per_layer"][-1, :, -encoder_boxes.shape[1] :],
            hidden_states_per_layer=decoded.hidden_states_per_layer,
            reference_boxes_per_layer=decoded.reference_boxes_per_layer,
            encoder_last_hidden_state=memory,
            encoder_logits=encoder_logits,
            encoder_boxes=encoder_boxes,
            encoder_hidden_states=encoded.hidden_states,
            decoder_hidden_states=decoded.hidden_states,
            encoder_attentions=encoded.attentions,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )

    def _refine(self, layer: int, hidden_states: Tensor) -> Tensor:
        """Return what a layer's outputs `[..., D]`, with -1 the encoder's, change of the boxes: logits `[..., 4]`."""
        return self.bbox_embed[self.head_of(layer)](hidden_states)

    def head_of(self, layer: int) -> int:
        """Return where a decoder layer's heads are: its own, or those that all of them share. -1 is the encoder's."""
        return min(layer, len(self.class_embed) - 2)

    def _initial_queries(
        self, boxes: Tensor, denoising_queries: DenoisingQueries | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Make the decoder's queries (mixed query selection: boxes `[B, Q, 4]` come from the image, contents are learned).

        Returns:
            (contents `[B, N, D]`, boxes `[B, N, 4]`, bool `[N, N]`: who may attend to whom; None: all to all)
        """
        batch_size, num_queries, _ = boxes.shape
        contents = self.query_embed(torch.arange(num_queries, device=boxes.device)).expand(batch_size, -1, -1)
        if denoising_queries is None:
            return contents, boxes, None
        if len(denoising_queries.labels) != batch_size:
            raise ValueError(
                f"denoising_queries is for {len(denoising_queries.labels)} images, pixel_values has {batch_size}"
            )
        noised, starts = self._embed_denoising(denoising_queries)
        contents, boxes = torch.cat([noised, contents], dim=1), torch.cat([starts, boxes], dim=1)
        return contents, boxes, denoising_queries.attention_mask(num_queries)

    def _embed_denoising(self, queries: DenoisingQueries) -> tuple[Tensor, Tensor]:
        """Return contents `[B, P, D]` and boxes `[B, P, 4]`; an empty slot is zero and the middle of the image."""
        labels = queries.labels.clamp(0, self.config.num_labels - 1)  # pyright: ignore[reportOptionalOperand]
        empty = (queries.labels < 0)[..., None]
        contents = self.denoising_class_embed(labels).masked_fill(empty, 0.0)
        boxes = inverse_sigmoid(queries.boxes.float()).sigmoid().masked_fill(empty, 0.5)
        return contents, boxes


@initialize.register
def _detector(module: DinoDetrModel) -> None:
    """Start all layers from the same heads, for which classes are unlikely and boxes stay where they are."""
    init.normal_(module.level_embed)
    init.xavier_uniform_(module.query_embed.weight)
    *_, weight, bias = module.bbox_embed[0].parameters()
    init.zeros_(weight)
    init.zeros_(bias)
    for head in module.class_embed:
        init.constant_(head.get_parameter("bias"), -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
    for heads in (module.class_embed, module.bbox_embed):
        for head in heads[1:]:
            for parameter, first in zip(head.parameters(), heads[0].parameters()):
                if parameter.shape == first.shape:  # not where the encoder's has columns of no class
                    init.copy_(parameter, first)


class DinoDetrForObjectDetection(DinoDetrPreTrainedModel):
    """`DinoDetrModel` and its predictions; with `labels`, the loss."""

    def __init__(self, config: DinoDetrConfig):
        super().__init__(config)
        self.model = DinoDetrModel(config)
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        source: str,
        id2label: dict[int, str] | list[str] | None = None,
        patch_size: int | None = DEFAULT_PATCH_SIZE,
        freeze_backbone: bool | int = True,
        **config_arguments: Any,
    ) -> "DinoDetrForObjectDetection":
        """
        Build a new detector on a pretrained backbone.

        Args:
            source: Hub id or folder of a backbone of transformers (DINOv2, DINOv3, ResNet, Swin, ConvNeXt, ...) or of
                a ViT of MAE, which becomes a ViTDet; or `timm:<name>`. A hierarchical one gives the maps of its last
                `num_feature_levels - 1` stages.
            id2label: class names, by index or in order; None: 80 nameless classes.
            patch_size: side of a plain ViT's patch in pixels; the patch embedding and position grid are resampled where
                it is not the checkpoint's. None keeps the checkpoint's. A hierarchical backbone has none to change.
            freeze_backbone: whether the backbone is left as it is, or how many of its stages (see `DinoDetrConfig`).
            config_arguments: further fields of `DinoDetrConfig`; of `backbone_config` those that are to change.

        Raises:
            ValueError: if the backbone is not supported or its weights did not all arrive.
        """
        if isinstance(id2label, (list, tuple)):
            id2label = dict(enumerate(id2label))
        num_levels = config_arguments.get("num_feature_levels", DinoDetrConfig.num_feature_levels)
        changes = config_arguments.pop("backbone_config", None)
        backbone = load_pretrained_backbone(source, patch_size, num_levels - 1, changes)
        config = DinoDetrConfig(
            backbone_config=backbone.config, id2label=id2label, freeze_backbone=freeze_backbone, **config_arguments
        )
        model = cls(config)
        model.model.backbone.model.load_state_dict(backbone.state_dict())
        return model

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        labels: list[dict] | Targets | None = None,
        denoising_queries: DenoisingQueries | None = None,
        loss_normalisers: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DinoDetrObjectDetectionOutput:
        """
        Args:
            pixel_values: `[B, 3, H, W]`, normalised, of any size.
            pixel_mask: `[B, H, W]`, 1 = image, 0 = padding at the right and bottom. None: the padding that `labels`
                tell of by their `size`; without them, none.
            labels: for each image `class_labels` int64 `[n]` in 0..K-1 and `boxes` float32 `[n, 4]` cxcywh in 0..1 of
                the unpadded image, as the processor makes them; or the `Targets` built of them. Gives `loss` and
                `loss_dict`.
            denoising_queries: noise to replay. None: in training, new noise is drawn for the labels.
            loss_normalisers: float32 `[2]`, at least 0: by how many boxes the losses of matching and of denoising
                are divided, where the batch is only a part of a step. None: those of this batch, at least 1; in
                training averaged over processes.
            kwargs: `output_hidden_states` and `output_attentions`, by default the configuration's, and
                `return_dict`. Others (`num_items_in_batch`) are ignored, as by the models of transformers.

        Raises:
            ValueError: for a mask of another shape than the images, or labels that contradict the model or each other.
        """
        if labels is None or isinstance(labels, Targets):
            targets = labels
        else:
            targets = Targets.from_labels(labels, len(pixel_values), pixel_values.device)
            if pixel_mask is None:
                pixel_mask = mask_from_labels(labels, pixel_values)
        if targets is not None and denoising_queries is None and self.training:
            denoising_queries = draw_denoising_queries(targets, self.config)
        if denoising_queries is not None:
            denoising_queries = denoising_queries.to(pixel_values.device)
        outputs = self.model(pixel_values, pixel_mask, denoising_queries, **kwargs | {"return_dict": True})
        passed_on = {name: outputs[name] for name in PASSED_ON if name in outputs}
        num_queries = outputs.last_hidden_state.shape[1]
        if targets is None:
            references = outputs.reference_boxes_per_layer[-1, :, -num_queries:]
            logits, boxes = self._predict(self.config.decoder_layers - 1, outputs.last_hidden_state, references)
            return DinoDetrObjectDetectionOutput(logits=logits, pred_boxes=boxes, **passed_on)

        # run through, not indexed: the gradients of all layers are put together once
        layers = zip(outputs.hidden_states_per_layer, outputs.reference_boxes_per_layer)
        predictions = [self._predict(index, *layer) for index, layer in enumerate(layers)]
        logits, boxes = (torch.stack(layers) for layers in zip(*predictions))  # [L, B, N, K], [L, B, N, 4]
        slots = logits.shape[2] - num_queries
        all_logits = torch.cat([logits[:, :, slots:], outputs.encoder_logits[None]])
        all_boxes = torch.cat([boxes[:, :, slots:], outputs.encoder_boxes[None]])
        denoising_logits, denoising_boxes = (x[:, :, :slots] if slots else None for x in (logits, boxes))
        if loss_normalisers is None:
            loss_normalisers = count_boxes(targets, denoising_queries, across_processes=self.training)
        loss, loss_dict = dino_loss(
            all_logits,
            all_boxes,
            denoising_logits,
            denoising_boxes,
            denoising_queries,
            targets,
            self.config,
            loss_normalisers,
        )
        if self.training and denoising_queries is None:
            loss, loss_dict = self._without_denoising(loss, loss_dict)
        return DinoDetrObjectDetectionOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=all_logits[-2],
            pred_boxes=all_boxes[-2],
            **passed_on,
            auxiliary_logits=all_logits,
            auxiliary_boxes=all_boxes,
            denoising_logits=denoising_logits,
            denoising_boxes=denoising_boxes,
        )

    def _without_denoising(self, loss: Tensor, loss_dict: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Give every parameter a gradient, or DistributedDataParallel would stop, and name the terms as in any step."""
        nothing = 0.0 * self.model.denoising_class_embed.weight.sum()
        suffixes = denoising_suffixes(self.config.decoder_layers) if self.config.num_denoising else []
        return loss + nothing, loss_dict | {term + suffix: nothing for term in TERMS for suffix in suffixes}

    def _predict(self, layer: int, hidden_states: Tensor, reference_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return a decoder layer's logits `[B, N, K]` and cxcywh boxes `[B, N, 4]`, float32, from its outputs."""
        head = self.model.head_of(layer)
        logits = linear(self.model.class_embed[head], hidden_states).float()
        deltas = self.model.bbox_embed[head](hidden_states).float()
        return logits, (deltas + inverse_sigmoid(reference_boxes)).sigmoid()


# `pipeline` and others ask these tables, also in a process that got this file from the Hub
MODEL_MAPPING_NAMES.setdefault(DinoDetrConfig.model_type, "DinoDetrModel")
MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.setdefault(DinoDetrConfig.model_type, "DinoDetrForObjectDetection")  # pyright: ignore[reportArgumentType]

__all__ = ["DinoDetrForObjectDetection", "DinoDetrModel", "DinoDetrPreTrainedModel"]
