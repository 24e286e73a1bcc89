"""Names of tensors in detrex's and in the DINO authors' code, and in our checkpoint files."""

import re
from typing import Any

import torch
from torch import Tensor

from ...configuration_dino_detr import DinoDetrConfig

# (their name, ours, more than one where theirs is several tensors in one). `{i}` and `{j}` stand for numbers, `{k}` for
# `weight` or `bias`, `{x}` for anything; the same on both sides.
Pair = tuple[str, str | tuple[str, ...]]

_PROJECTIONS = tuple(f"decoder.layers.{{i}}.self_attn.{part}_proj.{{k}}" for part in "qkv")

_COMMON: list[Pair] = [
    ("label_enc.weight", "denoising_class_embed.weight"),
    ("transformer.tgt_embed.weight", "query_embed.weight"),
    ("transformer.enc_output.{k}", "query_selection.enc_output.{k}"),
    ("transformer.enc_output_norm.{k}", "query_selection.enc_output_norm.{k}"),
    ("transformer.decoder.norm.{k}", "decoder.norm.{k}"),
    ("transformer.decoder.ref_point_head.{x}", "decoder.ref_point_head.{x}"),
]
_DETREX: list[Pair] = [
    ("transformer.level_embeds", "level_embed"),
    ("neck.convs.{i}.conv.{k}", "neck.levels.{i}.0.{k}"),
    ("neck.convs.{i}.norm.{k}", "neck.levels.{i}.1.{k}"),
    ("transformer.encoder.layers.{i}.attentions.0.{x}", "encoder.layers.{i}.self_attn.{x}"),
    ("transformer.encoder.layers.{i}.norms.0.{k}", "encoder.layers.{i}.self_attn_layer_norm.{k}"),
    ("transformer.encoder.layers.{i}.norms.1.{k}", "encoder.layers.{i}.ffn_layer_norm.{k}"),
    ("transformer.encoder.layers.{i}.ffns.0.layers.0.0.{k}", "encoder.layers.{i}.ffn.fc1.{k}"),
    ("transformer.encoder.layers.{i}.ffns.0.layers.1.{k}", "encoder.layers.{i}.ffn.fc2.{k}"),
    ("transformer.decoder.layers.{i}.attentions.0.attn.in_proj_{k}", _PROJECTIONS),
    ("transformer.decoder.layers.{i}.attentions.0.attn.out_proj.{k}", "decoder.layers.{i}.self_attn.out_proj.{k}"),
    ("transformer.decoder.layers.{i}.attentions.1.{x}", "decoder.layers.{i}.encoder_attn.{x}"),
    ("transformer.decoder.layers.{i}.norms.0.{k}", "decoder.layers.{i}.self_attn_layer_norm.{k}"),
    ("transformer.decoder.layers.{i}.norms.1.{k}", "decoder.layers.{i}.encoder_attn_layer_norm.{k}"),
    ("transformer.decoder.layers.{i}.norms.2.{k}", "decoder.layers.{i}.ffn_layer_norm.{k}"),
    ("transformer.decoder.layers.{i}.ffns.0.layers.0.0.{k}", "decoder.layers.{i}.ffn.fc1.{k}"),
    ("transformer.decoder.layers.{i}.ffns.0.layers.1.{k}", "decoder.layers.{i}.ffn.fc2.{k}"),
]
_OFFICIAL: list[Pair] = [
    ("transformer.level_embed", "level_embed"),
    ("input_proj.{i}.{x}", "neck.levels.{i}.{x}"),
    ("transformer.encoder.layers.{i}.self_attn.{x}", "encoder.layers.{i}.self_attn.{x}"),
    ("transformer.encoder.layers.{i}.norm1.{k}", "encoder.layers.{i}.self_attn_layer_norm.{k}"),
    ("transformer.encoder.layers.{i}.norm2.{k}", "encoder.layers.{i}.ffn_layer_norm.{k}"),
    ("transformer.encoder.layers.{i}.linear1.{k}", "encoder.layers.{i}.ffn.fc1.{k}"),
    ("transformer.encoder.layers.{i}.linear2.{k}", "encoder.layers.{i}.ffn.fc2.{k}"),
    ("transformer.decoder.layers.{i}.self_attn.in_proj_{k}", _PROJECTIONS),
    ("transformer.decoder.layers.{i}.self_attn.out_proj.{k}", "decoder.layers.{i}.self_attn.out_proj.{k}"),
    ("transformer.decoder.layers.{i}.cross_attn.{x}", "decoder.layers.{i}.encoder_attn.{x}"),
    # numbered in another order than they are run in
    ("transformer.decoder.layers.{i}.norm2.{k}", "decoder.layers.{i}.self_attn_layer_norm.{k}"),
    ("transformer.decoder.layers.{i}.norm1.{k}", "decoder.layers.{i}.encoder_attn_layer_norm.{k}"),
    ("transformer.decoder.layers.{i}.norm3.{k}", "decoder.layers.{i}.ffn_layer_norm.{k}"),
    ("transformer.decoder.layers.{i}.linear1.{k}", "decoder.layers.{i}.ffn.fc1.{k}"),
    ("transformer.decoder.layers.{i}.linear2.{k}", "decoder.layers.{i}.ffn.fc2.{k}"),
]

_SWIN: list[Pair] = [
    ("patch_embed.proj.{k}", "embeddings.patch_embeddings.projection.{k}"),
    ("patch_embed.norm.{k}", "embeddings.norm.{k}"),
    ("layers.{i}.blocks.{j}.norm1.{k}", "encoder.layers.{i}.blocks.{j}.layernorm_before.{k}"),
    ("layers.{i}.blocks.{j}.norm2.{k}", "encoder.layers.{i}.blocks.{j}.layernorm_after.{k}"),
    (
        "layers.{i}.blocks.{j}.attn.qkv.{k}",
        tuple(f"encoder.layers.{{i}}.blocks.{{j}}.attention.self.{part}.{{k}}" for part in ("query", "key", "value")),
    ),
    ("layers.{i}.blocks.{j}.attn.proj.{k}", "encoder.layers.{i}.blocks.{j}.attention.output.dense.{k}"),
    (
        "layers.{i}.blocks.{j}.attn.relative_position_bias_table",
        "encoder.layers.{i}.blocks.{j}.attention.self.relative_position_bias_table",
    ),
    ("layers.{i}.blocks.{j}.mlp.fc1.{k}", "encoder.layers.{i}.blocks.{j}.intermediate.dense.{k}"),
    ("layers.{i}.blocks.{j}.mlp.fc2.{k}", "encoder.layers.{i}.blocks.{j}.output.dense.{k}"),
    ("layers.{i}.downsample.{x}", "encoder.layers.{i}.downsample.{x}"),
    *((f"norm{stage}.{{k}}", f"hidden_states_norms.stage{stage + 1}.{{k}}") for stage in range(4)),
]
_CONVNEXT: list[Pair] = [
    ("downsample_layers.0.0.{k}", "embeddings.patch_embeddings.{k}"),
    ("downsample_layers.0.1.{k}", "embeddings.layernorm.{k}"),
    *(
        (f"downsample_layers.{stage}.{{j}}.{{k}}", f"encoder.stages.{stage}.downsampling_layer.{{j}}.{{k}}")
        for stage in range(1, 4)
    ),
    ("stages.{i}.{j}.gamma", "encoder.stages.{i}.layers.{j}.layer_scale_parameter"),
    ("stages.{i}.{j}.norm.{k}", "encoder.stages.{i}.layers.{j}.layernorm.{k}"),
    *(
        (f"stages.{{i}}.{{j}}.{name}.{{k}}", f"encoder.stages.{{i}}.layers.{{j}}.{name}.{{k}}")
        for name in ("dwconv", "pwconv1", "pwconv2")
    ),
    *((f"norm{stage}.{{k}}", f"hidden_states_norms.stage{stage + 1}.{{k}}") for stage in range(4)),
]
_VITDET: list[Pair] = [
    ("net.pos_embed", "embeddings.position_embeddings"),
    ("net.patch_embed.proj.{k}", "embeddings.projection.{k}"),
    ("net.blocks.{i}.attn.{x}", "encoder.layer.{i}.attention.{x}"),
    *(
        (f"net.blocks.{{i}}.{name}.{{k}}", f"encoder.layer.{{i}}.{name}.{{k}}")
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
    ),
]
_DINOV2: list[Pair] = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.{k}", "embeddings.patch_embeddings.projection.{k}"),
    ("blocks.{i}.ls1.gamma", "encoder.layer.{i}.layer_scale1.lambda1"),
    ("blocks.{i}.ls2.gamma", "encoder.layer.{i}.layer_scale2.lambda1"),
    (
        "blocks.{i}.attn.qkv.{k}",
        tuple(f"encoder.layer.{{i}}.attention.attention.{part}.{{k}}" for part in ("query", "key", "value")),
    ),
    ("blocks.{i}.attn.proj.{k}", "encoder.layer.{i}.attention.output.dense.{k}"),
    *(
        (f"blocks.{{i}}.{name}.{{k}}", f"encoder.layer.{{i}}.{name}.{{k}}")
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
    ),
]

# Modules that resize, before the two convolutions of a pyramid level (the same number in detectron2 and here).
_RESIZING_MODULES = {4.0: 4, 2.0: 1, 1.0: 0, 0.5: 1}

# What is computed, or belongs to the processor, or counts steps that frozen norms do not take.
_LEFT_OUT = re.compile(r"pixel_mean|pixel_std|.*\.(relative_position_index|num_batches_tracked)")
_MEANT_BY = {"i": r"\d+", "j": r"\d+", "k": "weight|bias", "x": ".+"}


def convert_state_dict(state: dict[str, Tensor], config: DinoDetrConfig) -> dict[str, Tensor]:
    """
    Rename tensors of detrex, or of the DINO authors, as our checkpoint files name them.

    Works for parameters, gradients or any subset of them. What is stored under several names comes out once.

    Raises:
        ValueError: for names that have no place in a model of this configuration.
    """
    pairs = [(re.compile(_as_pattern(theirs)), ours) for theirs, ours in name_pairs(config)]
    unused = _unused_pyramid_levels(config)
    converted, unknown = {}, []
    for name, tensor in state.items():
        if _LEFT_OUT.fullmatch(name) or unused.match(name):
            continue
        found = next(((match, ours) for pattern, ours in pairs if (match := pattern.fullmatch(name))), None)
        if found is None:
            unknown.append(name)
            continue
        match, ours = found
        names = [
            f"model.{target.format(**match.groupdict())}" for target in ([ours] if isinstance(ours, str) else ours)
        ]
        parts = [tensor] if len(names) == 1 else tensor.chunk(len(names))
        converted |= {target: _fit(target, part, config) for target, part in zip(names, parts)}
    if unknown:
        raise ValueError(f"no place for {len(unknown)} tensors of the reference checkpoint: {', '.join(unknown[:5])}")
    return {name: tensor.contiguous() for name, tensor in (converted | _fillings(converted, config)).items()}


def name_pairs(config: DinoDetrConfig) -> list[Pair]:
    """Return all names of theirs that a model of this configuration has a place for, and that place."""
    last = 1 if config.share_decoder_heads else config.decoder_layers  # the encoder's heads
    heads: list[Pair] = []
    for kind in ("class_embed", "bbox_embed"):
        for layer in range(config.decoder_layers + 1):
            ours = f"{kind}.{min(layer, last - 1) if layer < config.decoder_layers else last}.{{x}}"
            heads += [(f"{kind}.{layer}.{{x}}", ours), (f"transformer.decoder.{kind}.{layer}.{{x}}", ours)]
        heads.append((f"transformer.enc_out_{kind}.{{x}}", f"{kind}.{last}.{{x}}"))
    maps = config.num_backbone_maps
    extra: list[Pair] = [
        (f"neck.extra_convs.{level - maps}.{theirs}.{{k}}", f"neck.levels.{level}.{ours}.{{k}}")
        for level in range(maps, config.num_feature_levels)
        for theirs, ours in (("conv", 0), ("norm", 1))
    ]
    return [*_COMMON, *heads, *_DETREX, *extra, *_OFFICIAL, *_backbone_pairs(config), *_pyramid_pairs(config)]


def _backbone_pairs(config: DinoDetrConfig) -> list[Pair]:
    backbone_config: Any = config.backbone_config
    prefixes, pairs = {
        "resnet": (("",), _resnet_pairs(len(getattr(backbone_config, "depths", [])))),
        "swin": (("", "0."), _SWIN),
        "convnext": (("",), _CONVNEXT),
        "vitdet": (("",), _VITDET),
        "dinov2": (("net.", "net.timm_model.", "net.model.", "net.timm_model.model."), _DINOV2),
    }.get(backbone_config.model_type, ((), []))
    return [
        (f"backbone.{prefix}{theirs}", _map(ours, lambda name: f"backbone.model.{name}"))
        for prefix in prefixes
        for theirs, ours in pairs
    ]


def _resnet_pairs(num_stages: int) -> list[Pair]:
    """Name the convolutions and norms as detectron2 does (`res2.0.conv1.norm`) and torchvision (`layer1.0.bn1`)."""
    stem = "embedder.embedder"
    pairs: list[Pair] = [
        ("stem.conv1.weight", f"{stem}.convolution.weight"),
        ("stem.conv1.norm.{x}", f"{stem}.normalization.{{x}}"),
        ("0.body.conv1.weight", f"{stem}.convolution.weight"),
        ("0.body.bn1.{x}", f"{stem}.normalization.{{x}}"),
    ]
    for stage in range(num_stages):
        ours = f"encoder.stages.{stage}.layers.{{i}}"
        for d2, tv, tv_norm, place in (
            ("shortcut", "downsample.0", "downsample.1", "shortcut"),
            *((f"conv{c}", f"conv{c}", f"bn{c}", f"layer.{c - 1}") for c in (1, 2, 3)),
        ):
            convolution, norm = f"{ours}.{place}.convolution.weight", f"{ours}.{place}.normalization.{{x}}"
            pairs += [
                (f"res{stage + 2}.{{i}}.{d2}.weight", convolution),
                (f"res{stage + 2}.{{i}}.{d2}.norm.{{x}}", norm),
                (f"0.body.layer{stage + 1}.{{i}}.{tv}.weight", convolution),
                (f"0.body.layer{stage + 1}.{{i}}.{tv_norm}.{{x}}", norm),
            ]
    return pairs


def _pyramid_pairs(config: DinoDetrConfig) -> list[Pair]:
    """Name the levels by the logarithm of their stride, as detectron2 does, and their modules by place."""
    pairs: list[Pair] = []
    for place, (stage, factor) in enumerate(_pyramid_stages(config).items()):
        theirs, ours, resizing = f"backbone.simfp_{stage}", f"pyramid.levels.{place}", _RESIZING_MODULES[factor]
        pairs += [(f"{theirs}.{index}.{{k}}", f"{ours}.{index}.{{k}}") for index in range(resizing)]
        for convolution in (0, 1):
            index = resizing + 2 * convolution
            pairs += [
                (f"{theirs}.{resizing + convolution}.weight", f"{ours}.{index}.weight"),
                (f"{theirs}.{resizing + convolution}.norm.{{k}}", f"{ours}.{index + 1}.{{k}}"),
            ]
    return pairs


def _pyramid_stages(config: DinoDetrConfig) -> dict[int, float]:
    backbone_config: Any = config.backbone_config
    return {int(backbone_config.patch_size / f).bit_length() - 1: f for f in config.pyramid_scale_factors or []}


def _unused_pyramid_levels(config: DinoDetrConfig) -> re.Pattern[str]:
    """Return what matches names of levels that the transformer does not see."""
    seen = "|".join(map(str, _pyramid_stages(config)))
    return re.compile(rf"backbone\.simfp_(?!({seen})\.)" if seen else r"(?!)")


def _fit(name: str, tensor: Tensor, config: DinoDetrConfig) -> Tensor:
    """Return a tensor as our model has it: rows of its classes, and a first position, which a ViTDet passes over."""
    backbone_config: Any = config.backbone_config
    if backbone_config.model_type == "vitdet" and name.endswith("embeddings.position_embeddings"):
        positions = (backbone_config.pretrain_image_size // backbone_config.patch_size) ** 2
        if tensor.shape[1] == positions:  # of a ViT pretrained without a class token
            return torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)
    return _class_rows(name, tensor, config)


def _class_rows(name: str, tensor: Tensor, config: DinoDetrConfig) -> Tensor:
    """
    Return the rows of the configuration's classes, for the encoder those of unused ones behind them.

    The DINO authors have a row for each of COCO's ids, 0 to 90, and one more for denoising, which nothing reads.
    """
    kind = re.fullmatch(r"model\.(class_embed\.(\d+)\.(?:weight|bias)|denoising_class_embed\.weight)", name)
    if kind is None:
        return tensor
    num_labels: int = config.num_labels  # pyright: ignore[reportAssignmentType] never None in a whole configuration
    if not config.num_unused_classes:
        return tensor[:num_labels]
    ids = list(config.category_ids or range(num_labels))
    last = 1 if config.share_decoder_heads else config.decoder_layers
    if kind[2] == str(last):
        ids += sorted(set(range(num_labels + config.num_unused_classes)) - set(ids))
    return tensor[ids]


def _fillings(converted: dict[str, Tensor], config: DinoDetrConfig) -> dict[str, Tensor]:
    """Return what transformers' classes have beyond the reference's and do not use."""
    backbone_config: Any = config.backbone_config
    prefix, filled = "model.backbone.model", {}
    for name in converted:
        if name.startswith(prefix) and name.endswith(".running_mean"):
            filled[name.removesuffix("running_mean") + "num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    if f"{prefix}.embeddings.cls_token" in converted:
        norm, width = f"{prefix}.layernorm", backbone_config.hidden_size
        filled[f"{prefix}.embeddings.mask_token"] = torch.zeros(1, width)
    elif backbone_config.model_type == "swin" and f"{prefix}.embeddings.norm.weight" in converted:
        norm, width = f"{prefix}.swin.layernorm", backbone_config.hidden_size
    else:
        return filled
    return filled | {f"{norm}.weight": torch.ones(width), f"{norm}.bias": torch.zeros(width)}


def _as_pattern(template: str) -> str:
    """Return a regular expression for the names of a template."""
    pattern = re.escape(template)
    for placeholder, meaning in _MEANT_BY.items():
        pattern = pattern.replace(rf"\{{{placeholder}\}}", f"(?P<{placeholder}>{meaning})", 1)
    return pattern


def _map(names: str | tuple[str, ...], change: Any) -> str | tuple[str, ...]:
    return change(names) if isinstance(names, str) else tuple(change(name) for name in names)
