"""The configuration: what a checkpoint says of itself."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Arguments that `PreTrainedConfig` understands beyond its own fields, and keys it writes into `config.json`.
_BASE_ARGUMENTS = {
    "num_labels", "name_or_path", "torch_dtype", "attn_implementation", "experts_implementation", "output_attentions",
    "model_type", "auto_map", "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_internal",
    "_experts_implementation", "_experts_implementation_internal", "_output_attentions", "quantization_config",
}  # fmt: skip

# Options of loading. `pipeline` gives all of its `model_kwargs` to the configuration as well.
_LOADING_OPTIONS = {
    "_commit_hash", "_configuration_file", "_from_auto", "_from_pipeline", "adapter_kwargs", "adapter_name",
    "allow_all_kernels", "cache_dir", "code_revision", "commit_hash", "config", "device", "device_map", "device_mesh",
    "disable_mmap", "distributed_config", "dtype", "force_download", "from_flax", "from_tf", "fusion_config",
    "generation_config", "gguf_file", "ignore_mismatched_sizes", "kernel_config", "key_mapping", "load_in_4bit",
    "load_in_8bit", "local_files_only", "low_cpu_mem_usage", "max_memory", "mirror", "offload_buffers",
    "offload_folder", "offload_state_dict", "output_loading_info", "proxies", "resume_download",
    "return_unused_kwargs", "revision", "state_dict", "subfolder", "token", "torch_dtype", "tp_plan", "tp_size",
    "tqdm_class", "trust_remote_code", "use_auth_token", "use_fast", "use_kernels", "use_safetensors", "user_agent",
    "variant", "weights_only",
}  # fmt: skip

_AUTO_MAP = {
    "AutoConfig": "configuration_dino_detr.DinoDetrConfig",
    "AutoModel": "modeling_dino_detr.DinoDetrModel",
    "AutoModelForObjectDetection": "modeling_dino_detr.DinoDetrForObjectDetection",
}


@strict
class DinoDetrConfig(PreTrainedConfig):
    r"""
    The configuration of a DINO detector. The defaults are the reference's 12-epoch recipe for COCO on a plain ViT-B.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            The backbone: any that `AutoBackbone` knows (`dinov2`, `dinov3_vit`, `vitdet`, `resnet`, `swin`, `convnext`,
            ...) or `timm_backbone`. Its `out_features` say which maps the detector sees: one goes through the feature
            pyramid, several go to the neck. A dict of a hierarchical backbone without them takes the last
            `num_feature_levels - 1` stages. Defaults to DINOv2 ViT-B with 16-pixel patches and a 32x32 position grid.
        freeze_backbone (`bool` or `int`, defaults to `True`):
            Whether the backbone is left as it is: no graph, no gradient, always in eval mode. A number freezes that
            many of its stages, the stem (or embeddings) being the first, as detectron2's `freeze_at` does; stages are
            the blocks of a plain ViT. Batch norms are always left as they are.
        pad_to_patch_size (`bool`, defaults to `True`):
            Whether images are padded to whole patches of a plain ViT, as timm does, or what is left beyond the last
            whole patch is cut off, as detectron2's ViT does. Images below two patches are padded in either case.
        position_embedding_antialias (`bool`, defaults to `True`):
            Whether the learned position grid of a `dinov2` backbone is resampled with antialiasing, as timm and the
            reference do, or without, as `Dinov2Model` does. Other backbones resample as their own library does.
        d_model (`int`, defaults to 256):
            Width of the transformer; a multiple of 32 (the neck's GroupNorm) and of the numbers of heads.
        pyramid_channels (`int`, defaults to 256):
            Width of the feature pyramid.
        pyramid_scale_factors (`list[float]`, *optional*):
            Size of each pyramid level relative to the backbone's map, finest first; from 4, 2, 1 and 0.5. Defaults to
            `[2.0, 1.0, 0.5]` for a backbone that gives one map, and is empty for one that gives several.
        num_feature_levels (`int`, defaults to 4):
            Levels seen by the transformer. Those beyond the pyramid's are every second cell of the one before; those
            beyond the maps of a backbone without pyramid are strided convolutions of the one before.
        position_embedding_temperature (`float`, defaults to 10000):
            Temperature of the sine position embedding of the encoder's tokens; 20 in the DINO authors' code. The boxes
            of the decoder are embedded with 10000 in both.
        position_embedding_offset (`float`, defaults to -0.5):
            What is added to the cell's number, counted from 1, before it is embedded; 0 in the DINO authors' code.
        encoder_layers, decoder_layers (`int`, defaults to 6):
            Number of layers.
        encoder_attention_heads, decoder_attention_heads (`int`, defaults to 8):
            Number of attention heads.
        encoder_ffn_dim, decoder_ffn_dim (`int`, defaults to 2048):
            Width of the feed-forward networks.
        encoder_n_points, decoder_n_points (`int`, defaults to 4):
            Points sampled per head and level by deformable attention.
        num_queries (`int`, defaults to 900):
            Object queries: the most objects found in one image.
        num_denoising (`int`, defaults to 100):
            Budget of denoising pairs an image (`dn_number` in the reference); 0 switches denoising off.
        label_noise_ratio (`float`, defaults to 0.5):
            Twice the probability with which a denoising query's label is redrawn.
        box_noise_scale (`float`, defaults to 1.0):
            Noise of denoising boxes in half box sizes.
        class_cost, bbox_cost, giou_cost (`float`, defaults to 2, 5, 2):
            Weights of the matching cost.
        class_loss_coefficient, bbox_loss_coefficient, giou_loss_coefficient (`float`, defaults to 1, 5, 2):
            Weights of the loss terms.
        focal_alpha, focal_gamma (`float`, defaults to 0.25, 2):
            Parameters of the focal loss and matching cost.
        class_loss (`str`, defaults to `"focal"`):
            Classification loss: `"focal"`, the reference's, or `"iou_aware"`, Align-DETR's, for which scores come to
            say how well boxes fit.
        class_weights (`list[float]`, *optional*):
            Weight of each class in the classification loss, in class order. Defaults to 1 each.
        share_decoder_heads (`bool`, defaults to `False`):
            Whether the decoder's layers predict with one pair of heads, as in the DINO authors' code, or each with its
            own, as in detrex. The encoder has its own in both.
        num_unused_classes (`int`, defaults to 0):
            Columns of the encoder's class head beyond the classes. They compete in the selection of queries and are
            never predicted: ids that a trained checkpoint had a column for and no object (11 of COCO's 0 to 90).
        decay_norms (`bool`, defaults to `False`):
            Whether `build_optimizer` decays the weights of norms too, as the DINO authors' recipe does.
        category_ids (`list[int]`, *optional*):
            The data set's own category id of each class, in class order.
        id2label (`dict[int, str]`, *optional*):
            Class names by index. Defaults to 80 nameless classes.

    Raises:
        ValueError: for an unknown argument.
        huggingface_hub.errors.StrictDataclassError: for an ill-typed one, or values that contradict each other.

    Unknown keys of a `config.json` are only warned of, so that checkpoints of newer versions load.
    """

    model_type = "dino_detr_vit"
    sub_configs = {"backbone_config": AutoConfig}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    attribute_map = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}

    backbone_config: dict | PreTrainedConfig | None = None
    freeze_backbone: bool | int = True
    pad_to_patch_size: bool = True
    position_embedding_antialias: bool = True
    d_model: int = 256
    pyramid_channels: int = 256
    pyramid_scale_factors: list[float | int] | tuple[float | int, ...] | None = None
    num_feature_levels: int = 4
    position_embedding_temperature: float | int = 10000
    position_embedding_offset: float | int = -0.5
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_ffn_dim: int = 2048
    encoder_n_points: int = 4
    decoder_n_points: int = 4
    num_queries: int = 900
    num_denoising: int = 100
    label_noise_ratio: float | int = 0.5
    box_noise_scale: float | int = 1.0
    class_cost: float | int = 2.0
    bbox_cost: float | int = 5.0
    giou_cost: float | int = 2.0
    class_loss_coefficient: float | int = 1.0
    bbox_loss_coefficient: float | int = 5.0
    giou_loss_coefficient: float | int = 2.0
    focal_alpha: float | int = 0.25
    focal_gamma: float | int = 2.0
    class_loss: str = "focal"
    class_weights: list[float | int] | None = None
    share_decoder_heads: bool = False
    num_unused_classes: int = 0
    decay_norms: bool = False
    category_ids: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(set(kwargs) - _BASE_ARGUMENTS)
        if unknown:
            raise ValueError(f"DinoDetrConfig has no argument named {', '.join(unknown)}")
        for written_on_save in ("model_type", "auto_map"):
            kwargs.pop(written_on_save, None)
        if self.backbone_config is None:
            self.backbone_config = {"model_type": "dinov2", "image_size": 518, "patch_size": 16}
        if isinstance(self.backbone_config, dict):
            self.backbone_config = _build_backbone_config(self.backbone_config, self.num_feature_levels - 1)
        if self.pyramid_scale_factors is None:
            self.pyramid_scale_factors = [2.0, 1.0, 0.5] if self.num_backbone_maps == 1 else []
        self.pyramid_scale_factors = [float(factor) for factor in self.pyramid_scale_factors]
        if self.id2label is None and kwargs.get("num_labels") is None:
            kwargs["num_labels"] = 80  # COCO
        super().__post_init__(**kwargs)
        self.is_encoder_decoder = True
        if self.label2id is None:
            names: Any = self.id2label
            self.label2id = {name: index for index, name in names.items()}
        self.auto_map = dict(_AUTO_MAP)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        Build a configuration from a dict. Keys that this version does not know are dropped with a warning.

        Options of loading (`device_map`, `max_memory`, ...) are none of a configuration's, and passed over.

        Raises:
            ValueError: for another unknown keyword, unless `return_unused_kwargs` asks for those.
        """
        known = set(cls.__dataclass_fields__) | _BASE_ARGUMENTS
        unknown = sorted(set(kwargs) - known - _LOADING_OPTIONS)
        if unknown and not kwargs.get("return_unused_kwargs"):
            raise ValueError(f"DinoDetrConfig has no argument named {', '.join(unknown)}")
        unknown = sorted(set(config_dict) - known)
        if unknown:
            logger.warning(f"Ignoring what this version of DinoDetrConfig does not know: {', '.join(unknown)}")
        return super().from_dict({key: value for key, value in config_dict.items() if key in known}, **kwargs)

    def validate_architecture(self) -> None:
        """Refuse fields that contradict each other. transformers calls it after construction and before saving."""
        if self.d_model % 32:
            raise ValueError(f"d_model must be a multiple of 32, not {self.d_model}")
        for heads in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, heads):
                raise ValueError(f"d_model={self.d_model} must be a multiple of {heads}={getattr(self, heads)}")
        self._validate_levels()
        if self.freeze_backbone < 0:
            names = getattr(self.backbone_config, "stage_names", None)
            of = f" of {len({'stem', *names})}" if names else ""
            raise ValueError(f"freeze_backbone must be true, false or a number{of} stages, not {self.freeze_backbone}")
        if self.num_unused_classes < 0:
            raise ValueError(f"num_unused_classes must not be negative, but is {self.num_unused_classes}")
        if self.position_embedding_temperature <= 0:
            raise ValueError(
                f"position_embedding_temperature must be above 0, not {self.position_embedding_temperature}"
            )
        if self.id2label is not None and sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(f"the keys of id2label must be 0..K-1, not {sorted(self.id2label)}")
        if self.category_ids is not None and len(self.category_ids) != self.num_labels:
            raise ValueError(f"category_ids names {len(self.category_ids)} categories, id2label {self.num_labels}")
        if self.class_loss not in ("focal", "iou_aware"):
            raise ValueError(f"class_loss must be focal or iou_aware, not {self.class_loss!r}")
        weights = self.class_weights or []
        if self.class_weights is not None and (len(weights) != self.num_labels or min(weights, default=0) <= 0):
            raise ValueError(f"class_weights must be {self.num_labels} numbers above 0, not {weights}")

    def _validate_levels(self) -> None:
        """Refuse a pyramid, or a number of levels, that does not go with the backbone's maps."""
        factors, maps = self.pyramid_scale_factors or [], self.num_backbone_maps
        if maps > 1 and factors:
            raise ValueError(
                f"the backbone gives {maps} maps, which go to the neck as they are: leave pyramid_scale_factors out, "
                "or take one of out_features"
            )
        if maps == 1 and (not factors or set(factors) - {4.0, 2.0, 1.0, 0.5}):
            raise ValueError(f"pyramid_scale_factors must be from 4, 2, 1 and 0.5, not {factors}")
        given, what = (len(factors), "pyramid_scale_factors") if maps == 1 else (maps, "maps of the backbone")
        if self.num_feature_levels < given:
            raise ValueError(f"num_feature_levels={self.num_feature_levels} is less than the {given} {what}")

    @property
    def num_backbone_maps(self) -> int:
        """How many maps the backbone gives; 1 goes through the feature pyramid."""
        return len(getattr(self.backbone_config, "out_indices", None) or [-1])


def is_hierarchical(backbone_config: PreTrainedConfig) -> bool:
    """Return whether a backbone of transformers has stages whose maps become smaller, each with a depth of its own."""
    return isinstance(getattr(backbone_config, "depths", None), (list, tuple))


def select_stages(backbone_config: Any, count: int) -> None:
    """Have a backbone give the maps of its last `count` stages, or its last map if it is not hierarchical."""
    names = [name for name in backbone_config.stage_names if name != "stem"]
    backbone_config.out_features = names[-max(count, 1) :] if is_hierarchical(backbone_config) else names[-1:]


def _build_backbone_config(backbone_config: dict, num_stages: int) -> PreTrainedConfig:
    """
    Build a backbone's configuration from its `model_type` and arguments; the rest follows the reference.

    Args:
        num_stages: whose maps a hierarchical backbone gives, if `out_features` and `out_indices` do not say it.
    """
    arguments = dict(backbone_config)
    model_type = arguments.pop("model_type", "dinov2")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"backbone_config: transformers knows no model_type {model_type!r}")
    if model_type.startswith("dinov2"):
        arguments.setdefault("apply_layernorm", False)  # the reference takes the last block's raw tokens
    config = CONFIG_MAPPING[model_type](**arguments)
    if not {"out_features", "out_indices"} & set(arguments) and is_hierarchical(config):
        select_stages(config, num_stages)
    return config


__all__ = ["DinoDetrConfig"]
