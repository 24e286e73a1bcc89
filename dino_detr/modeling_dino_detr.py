"""The DINO detector on a plain ViT: `DinoDetrModel`, `DinoDetrForObjectDetection` and their outputs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .backbone import DinoDetrBackbone, load_pretrained_backbone
from .boxes import inverse_sigmoid
from .configuration_dino_detr import DinoDetrConfig
from .decoder import DinoDetrDecoder, PredictionMLP, QuerySelfAttention
from .deformable_attention import SAMPLING, MultiScaleDeformableAttention
from .denoising import DenoisingQueries, draw_denoising_queries
from .encoder import DinoDetrEncoder, cell_centres, sine_position_embedding
from .feature_pyramid import ChannelsFirstLayerNorm, Neck, SimpleFeaturePyramid
from .linear import FeedForward, Linear
from .loss import dino_loss, normalisers
from .matching import Targets
from .query_selection import QuerySelection, token_proposals

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
    """

    last_hidden_state: Tensor | None = None
    hidden_states_per_layer: Tensor | None = None
    reference_boxes_per_layer: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_logits: Tensor | None = None
    encoder_boxes: Tensor | None = None


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


class DinoDetrPreTrainedModel(PreTrainedModel):
    """Initialisation (the reference's) and what transformers wants to know of the models."""

    config: DinoDetrConfig
    config_class = DinoDetrConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["DinoDetrBackbone", "DinoDetrEncoderLayer", "DinoDetrDecoderLayer"]

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As transformers'. Loading puts new parameters in place, so what is frozen is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        for module in model.modules():
            if isinstance(module, DinoDetrBackbone):
                module.freeze()
        for parameter in model.parameters():
            # where they lie in the file decides which CPU kernels run, and so the last bits of the outputs
            if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
                parameter.data = parameter.data.clone()
        return loaded

    def set_deformable_sampling(self, sampling: str) -> None:
        """
        Choose how deformable attention samples; the numbers are the same but for rounding, and no checkpoint says it.

        Args:
            sampling: `auto` (the fastest that works here), `plain` (PyTorch's `grid_sample`, the definition), `gather`
                (for CPUs) or `triton` (for GPUs).

        Raises:
            ValueError: for any other.
        """
        if sampling not in SAMPLING:
            raise ValueError(f"sampling {sampling!r} is none of {', '.join(SAMPLING)}")
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.sampling = sampling

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs) -> None:
        """As transformers', and in a backbone of timm."""
        super()._set_gradient_checkpointing(enable, **kwargs)
        for module in self.modules():
            if isinstance(module, DinoDetrBackbone):
                module.set_gradient_checkpointing(enable)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """As transformers', which in code outside its tree skips modules without parameters of their own."""
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Called for every module, children before parents, so that a parent has the last word on its children."""
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            _init_as_torch_does(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm, ChannelsFirstLayerNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Neck):
            for convolution, _ in module.levels:
                init.xavier_uniform_(convolution.weight)
                init.zeros_(convolution.bias)
        elif isinstance(module, FeedForward):
            init.xavier_uniform_(module.fc1.weight)
            init.xavier_uniform_(module.fc2.weight)
        elif isinstance(module, MultiScaleDeformableAttention):
            init.zeros_(module.sampling_offsets.weight)
            init.copy_(module.sampling_offsets.bias, module.initial_offsets())
            init.zeros_(module.attention_weights.weight)
            init.zeros_(module.attention_weights.bias)
            for projection in (module.value_proj, module.output_proj):
                init.xavier_uniform_(projection.weight)
                init.zeros_(projection.bias)
        elif isinstance(module, QuerySelfAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                # the reference initialises the three as one [3D, D] matrix
                init.xavier_uniform_(projection.weight, gain=1 / math.sqrt(2))
                init.zeros_(projection.bias)
            init.xavier_uniform_(module.out_proj.weight)
            init.zeros_(module.out_proj.bias)
        elif isinstance(module, DinoDetrDecoder):
            for layer in module.ref_point_head.layers:
                init.xavier_uniform_(layer.weight)
        elif isinstance(module, QuerySelection):
            init.xavier_uniform_(module.enc_output.weight)
        elif isinstance(module, DinoDetrModel):
            init.normal_(module.level_embed)
            init.xavier_uniform_(module.query_embed.weight)
            _init_heads(module.class_embed, module.bbox_embed)


def _init_as_torch_does(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    if module.bias is not None:
        bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(module.weight)[0])
        init.uniform_(module.bias, -bound, bound)


def _init_heads(class_embed: nn.ModuleList, bbox_embed: nn.ModuleList) -> None:
    """All layers start from the same heads: unlikely classes, boxes left where they are."""
    init.zeros_(bbox_embed[0].layers[-1].weight)
    init.zeros_(bbox_embed[0].layers[-1].bias)
    init.constant_(class_embed[0].bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
    for heads in (class_embed, bbox_embed):
        for head in heads[1:]:
            for parameter, first in zip(head.parameters(), heads[0].parameters()):
                init.copy_(parameter, first)


class DinoDetrModel(DinoDetrPreTrainedModel):
    """
    Backbone, pyramid, encoder, query selection and decoder.

    It holds the prediction heads of the `L` decoder layers and, last, of the encoder: the encoder's select the
    queries, the decoder's refine their boxes.
    """

    def __init__(self, config: DinoDetrConfig):
        super().__init__(config)
        self.backbone = DinoDetrBackbone(config)
        extra_levels = config.num_feature_levels - len(config.pyramid_scale_factors)
        self.pyramid = SimpleFeaturePyramid(
            self.backbone.channels, config.pyramid_channels, config.pyramid_scale_factors, extra_levels
        )
        self.neck = Neck(config.pyramid_channels, config.d_model, config.num_feature_levels)
        self.level_embed = nn.Parameter(torch.empty(config.num_feature_levels, config.d_model))
        self.encoder = DinoDetrEncoder(config)
        self.query_selection = QuerySelection(config.d_model)
        self.query_embed = nn.Embedding(config.num_queries, config.d_model)
        self.decoder = DinoDetrDecoder(config)
        self.class_embed = nn.ModuleList(
            Linear(config.d_model, config.num_labels) for _ in range(config.decoder_layers + 1)
        )
        self.bbox_embed = nn.ModuleList(
            PredictionMLP(config.d_model, config.d_model, 4, 3) for _ in range(config.decoder_layers + 1)
        )
        self.denoising_class_embed = nn.Embedding(config.num_labels, config.d_model)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        denoising_queries: DenoisingQueries | None = None,
    ) -> DinoDetrModelOutput:
        """
        Args:
            pixel_values: `[B, 3, H, W]`, normalised, of any size.
            pixel_mask: `[B, H, W]`, 1 = image, 0 = padding at the right and bottom; None: no padding.
            denoising_queries: queries to run beside the matching ones.

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
        maps = self.neck(self.pyramid(self.backbone(pixel_values)))
        spatial_shapes = [tuple(feature_map.shape[-2:]) for feature_map in maps]
        valid = [F.interpolate(pixel_mask[:, None].float(), size=shape)[:, 0] > 0 for shape in spatial_shapes]
        valid_ratios = torch.stack(
            [torch.stack([v[:, 0].float().mean(1), v[:, :, 0].float().mean(1)], dim=-1) for v in valid], dim=1
        )  # [B, levels, 2] as (w, h)

        tokens = torch.cat([feature_map.flatten(2).transpose(1, 2) for feature_map in maps], dim=1)  # [B, S, D]
        positions = torch.cat(
            [
                sine_position_embedding(v, self.config.d_model).flatten(1, 2) + level
                for v, level in zip(valid, self.level_embed)
            ],
            dim=1,
        ).to(tokens.dtype)
        padding_mask = ~torch.cat([v.flatten(1) for v in valid], dim=1)  # [B, S]
        centres = cell_centres(spatial_shapes, valid_ratios)
        memory = self.encoder(
            tokens, positions, centres[:, :, None] * valid_ratios[:, None], spatial_shapes, padding_mask
        )

        proposals, valid_proposals = token_proposals(centres, spatial_shapes, padding_mask)
        encoder_logits, encoder_boxes = self.query_selection(
            memory,
            proposals,
            valid_proposals,
            self.class_embed[-1],
            self.bbox_embed[-1],
            self.config.num_queries,
        )

        # mixed query selection: boxes come from the image, contents are learned
        num_queries = encoder_boxes.shape[1]
        queries = self.query_embed.weight[:num_queries].expand(batch_size, -1, -1)
        boxes = encoder_boxes.detach()
        attention_mask = None
        if denoising_queries is not None:
            if len(denoising_queries.labels) != batch_size:
                raise ValueError(
                    f"denoising_queries is for {len(denoising_queries.labels)} images, pixel_values has {batch_size}"
                )
            contents, starts = self._embed_denoising(denoising_queries)
            queries, boxes = torch.cat([contents, queries], dim=1), torch.cat([starts, boxes], dim=1)
            attention_mask = denoising_queries.attention_mask(num_queries)
        hidden_states, references = self.decoder(
            queries,
            boxes,
            memory,
            valid_ratios,
            spatial_shapes,
            padding_mask,
            attention_mask,
            self.bbox_embed,
        )
        return DinoDetrModelOutput(
            last_hidden_state=hidden_states[-1, :, -num_queries:],
            hidden_states_per_layer=hidden_states,
            reference_boxes_per_layer=references,
            encoder_last_hidden_state=memory,
            encoder_logits=encoder_logits,
            encoder_boxes=encoder_boxes,
        )

    def _embed_denoising(self, queries: DenoisingQueries) -> tuple[Tensor, Tensor]:
        """Contents `[B, P, D]` and initial boxes `[B, P, 4]`; an empty slot is zero and the middle of the image."""
        labels = queries.labels.clamp(0, self.config.num_labels - 1)
        empty = (queries.labels < 0)[..., None]
        contents = self.denoising_class_embed(labels).masked_fill(empty, 0.0)
        boxes = inverse_sigmoid(queries.boxes.float()).sigmoid().masked_fill(empty, 0.5)
        return contents, boxes


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
        id2label: dict[int, str] | None = None,
        patch_size: int | None = 16,
        freeze_backbone: bool = True,
        **config_arguments,
    ) -> "DinoDetrForObjectDetection":
        """
        A new detector on a pretrained backbone.

        Args:
            source: Hub id or folder of a DINOv2 (with registers or not) or DINOv3 ViT, or `timm:<name>` of a plain ViT.
            id2label: class names by index; None: 80 nameless classes.
            patch_size: side of a patch in pixels; the patch embedding and position grid are resampled where it is not
                the checkpoint's. None keeps the checkpoint's.
            freeze_backbone: whether the backbone is left as it is.
            config_arguments: further fields of `DinoDetrConfig`.

        Raises:
            ValueError: if the backbone is not supported or its weights did not all arrive.
        """
        backbone = load_pretrained_backbone(source, patch_size)
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
        labels: list[dict] | None = None,
        denoising_queries: DenoisingQueries | None = None,
        loss_normalisers: Tensor | None = None,
    ) -> DinoDetrObjectDetectionOutput:
        """
        Args:
            pixel_values: `[B, 3, H, W]`, normalised, of any size.
            pixel_mask: `[B, H, W]`, 1 = image, 0 = padding at the right and bottom; None: no padding.
            labels: for each image `class_labels` int64 `[n]` in 0..K-1 and `boxes` float32 `[n, 4]` cxcywh in 0..1 of
                the unpadded image, as the processor makes them; gives `loss` and `loss_dict`.
            denoising_queries: noise to replay. None: in training, new noise is drawn for the labels.
            loss_normalisers: float32 `[2]`, at least 0: by how many boxes the losses of matching and of denoising
                are divided, where the batch is only a part of a step. None: those of this batch, at least 1; in
                training averaged over processes.

        Raises:
            ValueError: for a mask of another shape than the images, or labels that contradict the model or each other.
        """
        targets = None
        if labels is not None:
            targets = Targets.from_labels(labels, len(pixel_values), pixel_values.device)
            if denoising_queries is None and self.training:
                denoising_queries = draw_denoising_queries(
                    targets,
                    self.config.num_labels,
                    self.config.num_denoising,
                    self.config.label_noise_ratio,
                    self.config.box_noise_scale,
                )
        if denoising_queries is not None:
            denoising_queries = denoising_queries.to(pixel_values.device)
        outputs = self.model(pixel_values, pixel_mask, denoising_queries)
        if targets is None:
            num_queries = outputs.last_hidden_state.shape[1]
            references = outputs.reference_boxes_per_layer[-1, :, -num_queries:]
            logits, boxes = self._predict(self.config.decoder_layers - 1, outputs.last_hidden_state, references)
            return DinoDetrObjectDetectionOutput(
                logits=logits,
                pred_boxes=boxes,
                last_hidden_state=outputs.last_hidden_state,
                encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            )

        # run through, not indexed: the gradients of all layers are put together once
        layers = zip(outputs.hidden_states_per_layer, outputs.reference_boxes_per_layer)
        predictions = [self._predict(index, *layer) for index, layer in enumerate(layers)]
        logits, boxes = (torch.stack(layers) for layers in zip(*predictions))  # [L, B, N, K], [L, B, N, 4]
        slots = denoising_queries.labels.shape[1] if denoising_queries is not None else 0
        all_logits = torch.cat([logits[:, :, slots:], outputs.encoder_logits[None]])
        all_boxes = torch.cat([boxes[:, :, slots:], outputs.encoder_boxes[None]])
        if loss_normalisers is None:
            loss_normalisers = normalisers(targets, denoising_queries, across_processes=self.training)
        num_boxes, num_denoised = loss_normalisers.to(all_boxes.device, non_blocking=True)
        loss, loss_dict = dino_loss(
            all_logits,
            all_boxes,
            logits[:, :, :slots],
            boxes[:, :, :slots],
            denoising_queries,
            targets,
            self.config,
            num_boxes,
            num_denoised,
        )
        if self.training and denoising_queries is None:
            # every parameter gets a gradient in every step, or DistributedDataParallel would stop
            nothing = 0.0 * self.model.denoising_class_embed.weight.sum()
            loss = loss + nothing
            if self.config.num_denoising:
                terms = [name for name in loss_dict if not name.endswith("_enc")]
                loss_dict |= {"_".join([*name.split("_")[:2], "dn", *name.split("_")[2:]]): nothing for name in terms}
        return DinoDetrObjectDetectionOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=all_logits[-2],
            pred_boxes=all_boxes[-2],
            last_hidden_state=outputs.last_hidden_state,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            auxiliary_logits=all_logits,
            auxiliary_boxes=all_boxes,
            denoising_logits=logits[:, :, :slots] if slots else None,
            denoising_boxes=boxes[:, :, :slots] if slots else None,
        )

    def _predict(self, layer: int, hidden_states: Tensor, reference_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """A decoder layer's logits `[B, N, K]` and cxcywh boxes `[B, N, 4]`, float32, of its outputs in the decoder."""
        logits = self.model.class_embed[layer](hidden_states).float()
        deltas = self.model.bbox_embed[layer](hidden_states).float()
        return logits, (deltas + inverse_sigmoid(reference_boxes)).sigmoid()


# `pipeline("object-detection")` asks this table, also in a process that got this file from the Hub
MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.setdefault(DinoDetrConfig.model_type, "DinoDetrForObjectDetection")

__all__ = ["DinoDetrForObjectDetection", "DinoDetrModel", "DinoDetrPreTrainedModel"]
