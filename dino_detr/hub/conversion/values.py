"""What a reference's own configuration says beyond the shapes of its tensors."""

from typing import Any

# What this model has no choice of, in either form of the configuration: (where it stands, what it is here).
_FIXED_HERE = {
    "inverse_sigmoid_eps": 1e-3,
    "neck_norm": "GroupNorm(32)",
    "neck_kernel": 1,
    "neck.norm": "GroupNorm(32)",
    "neck.kernel_size": 1,
    "pos_embed.normalize": True,
    "pos_embed.eps": 1e-6,
    "position_embedding.normalize": True,
    "position_embedding.eps": 1e-6,
    "decoder_query_sine.temperature": 10000,
    "transformer.dropout": 0.0,
    "transformer.activation": "relu",
    "transformer.look_forward_twice": True,
    "transformer.learnt_init_query": True,
    "transformer.embed_init_tgt": True,
    "transformer.post_norm": False,
    "transformer.pre_norm": False,
    "two_stage.learn_wh": False,
    "two_stage.default_wh": 0.05,
    "two_stage.binary_cls": False,
    "vit.final_norm": False,
    "vit.class_token": True,
    "vit.register_tokens": 0,
    "vit.layer_scale": True,
    "backbone.stride_in_1x1": False,
    "backbone.ape": False,
    "backbone.patch_norm": True,
    "backbone.net.residual_block_indexes": [],
    "backbone.net.use_abs_pos": True,
}

# (where it stands in either form, the field of `DinoDetrConfig`)
_FIELDS = [
    ("num_heads", "encoder_attention_heads"),
    ("num_heads", "decoder_attention_heads"),
    ("transformer.num_heads", "encoder_attention_heads"),
    ("transformer.num_heads", "decoder_attention_heads"),
    ("num_points", "encoder_n_points"),
    ("num_points", "decoder_n_points"),
    ("transformer.num_points", "encoder_n_points"),
    ("transformer.num_points", "decoder_n_points"),
    ("dn_number", "num_denoising"),
    ("denoising.dn_number", "num_denoising"),
    ("label_noise_ratio", "label_noise_ratio"),
    ("denoising.label_noise_ratio", "label_noise_ratio"),
    ("box_noise_scale", "box_noise_scale"),
    ("denoising.box_noise_scale", "box_noise_scale"),
    ("pos_embed.temperature", "position_embedding_temperature"),
    ("position_embedding.temperature", "position_embedding_temperature"),
    ("position_embedding.temperatureH", "position_embedding_temperature"),
    ("pos_embed.offset", "position_embedding_offset"),
    ("position_embedding.offset", "position_embedding_offset"),
    ("heads.class_embed_shared", "share_decoder_heads"),
    ("matcher.cost_class", "class_cost"),
    ("matcher.cost_bbox", "bbox_cost"),
    ("matcher.cost_giou", "giou_cost"),
    ("loss_weights.loss_class", "class_loss_coefficient"),
    ("loss_weights.loss_ce", "class_loss_coefficient"),
    ("loss_weights.loss_bbox", "bbox_loss_coefficient"),
    ("loss_weights.loss_giou", "giou_loss_coefficient"),
    ("focal_alpha", "focal_alpha"),
    ("focal.alpha", "focal_alpha"),
    ("focal_gamma", "focal_gamma"),
    ("focal.gamma", "focal_gamma"),
]
# The same of the backbone's configuration.
_BACKBONE_FIELDS = [
    ("vit.num_heads", "num_attention_heads"),
    ("vit.img_size", "image_size"),
    ("vit.ln_eps", "layer_norm_eps"),
    ("backbone.net.num_heads", "num_attention_heads"),
    ("backbone.net.img_size", "image_size"),
    ("backbone.net.pretrain_img_size", "pretrain_image_size"),
    ("backbone.net.window_size", "window_size"),
    ("backbone.net.window_block_indexes", "window_block_indices"),
    ("backbone.net.layer_norm_eps", "layer_norm_eps"),
    ("backbone.net.drop_path_rate", "drop_path_rate"),
    ("backbone.drop_path_rate", "drop_path_rate"),
]

# What shapes tell too: (where it stands, the field). A contradiction means that the two do not belong together.
_TOLD_BY_SHAPES = [
    ("embed_dim", "d_model"),
    ("transformer.embed_dim", "d_model"),
    ("enc_layers", "encoder_layers"),
    ("transformer.enc_layers", "encoder_layers"),
    ("dec_layers", "decoder_layers"),
    ("transformer.dec_layers", "decoder_layers"),
    ("feedforward_dim", "encoder_ffn_dim"),
    ("transformer.feedforward_dim", "encoder_ffn_dim"),
    ("num_feature_levels", "num_feature_levels"),
    ("transformer.num_feature_levels", "num_feature_levels"),
    ("num_queries", "num_queries"),
    ("two_stage.num_queries", "num_queries"),
]


def apply_reference_config(fields: dict[str, Any], reference: dict, place: str) -> dict[str, Any]:
    """
    Return the fields of `DinoDetrConfig` with the values of a reference's configuration in their place.

    Args:
        fields: what the shapes tell (see `config_from_shapes`).
        reference: in the form of the golden sets' `config.json`.
        place: what messages name: the file of the configuration.

    Raises:
        ValueError: naming the first value that contradicts the shapes, or that this model cannot take.
    """
    values = _flatten(reference)
    for key, here in _FIXED_HERE.items():
        _check(values, key, here, place, "this model has")
    for key, field in _TOLD_BY_SHAPES:
        _check(values, key, fields[field], place, "the tensors have")
    for weight in values:
        if weight.startswith("loss_weights."):  # the same for every layer, the encoder's head and denoising
            _check(
                values, weight, values["_".join(weight.split("_")[:3])], place, "this model has, as for the last layer,"
            )
    for alpha in ("alpha", "gamma"):
        focal = values.get(f"focal_{alpha}", values.get(f"focal.{alpha}"))
        _check(values, f"matcher.{alpha}", focal, place, "this model has, as in the loss,")
    samples = fields["encoder_attention_heads"] * fields["encoder_n_points"]
    fields = fields | {field: values[key] for key, field in _FIELDS if key in values}
    heads, points = fields["encoder_attention_heads"], fields["encoder_n_points"]
    if heads * points != samples:
        raise ValueError(f"{place}: {heads} heads with {points} points are not the tensors' {samples} in all")
    backbone = {field: values[key] for key, field in _BACKBONE_FIELDS if key in values}
    if backbone.get("drop_path_rate") is None or "drop_path_rate" not in fields["backbone_config"]:
        backbone.pop("drop_path_rate", None)
    if "backbone.freeze_at" in values:
        fields["freeze_backbone"] = max(0, values["backbone.freeze_at"]) or False
    if "feature_names" in values:
        fields["pyramid_scale_factors"] = _seen_levels(values, fields["backbone_config"]["patch_size"], place)
    return fields | {"backbone_config": fields["backbone_config"] | backbone}


def _flatten(reference: dict, prefix: str = "") -> dict[str, Any]:
    """Return the values under the joined names of where they stand."""
    flat = {}
    for key, value in reference.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _check(values: dict[str, Any], key: str, expected: Any, place: str, whose: str) -> None:
    if key in values and values[key] != expected:
        raise ValueError(f"{place}: {key} is {values[key]}, but {whose} {expected}")


def _seen_levels(values: dict[str, Any], patch_size: int, place: str) -> list[float]:
    """Return the scale factors of the pyramid's levels that the transformer sees; p<n> has a stride of 2^n."""
    names = {factor: f"p{int(patch_size / factor).bit_length() - 1}" for factor in values["pyramid_scale_factors"]}
    seen = {factor: name for factor, name in names.items() if name in values["feature_names"]}
    extra = len(values["feature_names"]) - len(seen)
    last = f"p{max(int(name[1:]) for name in names.values()) + 1}"
    expected = list(seen.values()) + [last] * extra
    if values["feature_names"] != expected or extra > bool(values["pyramid_top_block"]):
        raise ValueError(f"{place}: feature_names {values['feature_names']} are not levels {names} and above")
    return list(seen)
