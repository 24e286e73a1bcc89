"""A detector's configuration, read off the names and shapes of its tensors."""

import re
from typing import Any, NamedTuple

from .coco import CLASSES, NUM_IDS

Shapes = dict[str, tuple[int, ...]]

NUM_POINTS = 4  # of deformable attention, in all published detectors
_HEAD_WIDTH = 64  # of DINOv2's attention
_DINOV2_WIDTHS = (384, 768, 1024, 1536)  # whose heads are that wide

# Drop path of the published Swins (tiny; small, base and large), by width and depths.
_SWIN_DROP_PATH: dict[tuple[int, tuple[int, ...]], float] = {
    (96, (2, 2, 6, 2)): 0.1,
    **{(width, (2, 2, 18, 2)): 0.2 for width in (96, 128, 192)},
}


class Code(NamedTuple):
    """
    Whose code wrote a checkpoint, and what of the configuration that decides.

    Args:
        name: as messages say it.
        encoder, neck: how the names of an encoder layer's attention and of the neck's first convolution go.
        fields: of `DinoDetrConfig`.
        frozen_stages: of a ResNet, counted with the stem.
    """

    name: str
    encoder: str
    neck: str
    fields: dict[str, Any]
    frozen_stages: int


DETREX = Code(
    name="detrex",
    encoder="transformer.encoder.layers.{}.attentions.0",
    neck="neck.convs.{}.conv.weight",
    fields={"num_denoising": 100, "box_noise_scale": 1.0},
    frozen_stages=1,
)
OFFICIAL = Code(
    name="IDEA-Research/DINO",
    encoder="transformer.encoder.layers.{}.self_attn",
    neck="input_proj.{}.0.weight",
    fields={
        "num_denoising": 100,
        "box_noise_scale": 0.4,
        "position_embedding_temperature": 20,
        "position_embedding_offset": 0.0,
        "share_decoder_heads": True,
        "decay_norms": True,
    },
    frozen_stages=2,
)

# What only another project's files have: (a part of a name, whose it is).
_OTHERS = [
    ("query_selection.enc_output.weight", "this project's own: nothing is to convert"),
    (
        "model.decoder.layers.0.encoder_attn.sampling_offsets",
        "a detector of transformers, not one of detrex or IDEA-Research",
    ),
    ("decoder.dec_bbox_head.0.", "an RT-DETR's"),
    ("decoder.dec_score_head.0.", "an RT-DETR's"),
    ("transformer.encoder.layers.0.self_attn.sampling_offsets.weight", "a Deformable DETR's: it has no denoising"),
    ("query_embed.weight", "a DETR's: it has no two-stage queries"),
    ("roi_heads.", "a Faster R-CNN's"),
    ("fc.weight", "a classifier's"),
    ("head.weight", "a classifier's"),
    ("classifier.", "a classifier's"),
]


def find_code(shapes: Shapes, place: str) -> Code:
    """
    Tell whose code a checkpoint is of.

    Args:
        place: what messages name: the file.

    Raises:
        ValueError: if it is no DINO detector's.
    """
    is_dino = {"label_enc.weight", "transformer.tgt_embed.weight"} <= set(shapes)
    for code in (DETREX, OFFICIAL):
        if is_dino and f"{code.encoder.format(0)}.sampling_offsets.weight" in shapes:
            return code
    whose = next((whose for part, whose in _OTHERS if any(part in name for name in shapes)), None)
    raise ValueError(
        f"{place} is no DINO detector of detrex or IDEA-Research: "
        + (f"its tensors are {whose}" if whose else f"its tensors are named {', '.join(sorted(shapes)[:3])}, ...")
    )


def config_from_shapes(shapes: Shapes, place: str) -> dict[str, Any]:
    """
    Return the fields of `DinoDetrConfig` that names and shapes tell, with those that the code they are of implies.

    What neither tells of the backbone is None.

    Raises:
        ValueError: if it is no DINO detector's, or lacks a tensor that one has.
    """
    code = find_code(shapes, place)
    try:
        return _all_fields(shapes, code, place)
    except KeyError as error:
        raise ValueError(f"{place} looks like a DINO detector of {code.name}, but has no tensor {error}") from error


def _all_fields(shapes: Shapes, code: Code, place: str) -> dict[str, Any]:
    attention = code.encoder.format(0)
    d_model = shapes["transformer.tgt_embed.weight"][1]
    num_levels = shapes.get("transformer.level_embeds", shapes.get("transformer.level_embed", (0,)))[0]
    decoder_layers = _count(shapes, r"transformer\.decoder\.layers\.(\d+)\.")
    points_and_heads = shapes[f"{attention}.attention_weights.weight"][0] // num_levels
    num_heads = points_and_heads // NUM_POINTS
    fc1 = ("ffns.0.layers.0.0", "linear1")[code is OFFICIAL]
    head = "class_embed.0.weight"
    num_classes = shapes[head if head in shapes else f"transformer.decoder.{head}"][0]
    fields = code.fields | _backbone_fields(shapes, code, num_levels, place) | _class_fields(num_classes, code)
    return fields | {
        "d_model": d_model,
        "num_feature_levels": num_levels,
        "encoder_layers": _count(shapes, r"transformer\.encoder\.layers\.(\d+)\."),
        "decoder_layers": decoder_layers,
        "encoder_attention_heads": num_heads,
        "decoder_attention_heads": num_heads,
        "encoder_n_points": NUM_POINTS,
        "decoder_n_points": NUM_POINTS,
        "encoder_ffn_dim": shapes[f"transformer.encoder.layers.0.{fc1}.weight"][0],
        "decoder_ffn_dim": shapes[f"transformer.decoder.layers.0.{fc1}.weight"][0],
        "num_queries": shapes["transformer.tgt_embed.weight"][0],
    }


def _class_fields(num_classes: int, code: Code) -> dict[str, Any]:
    """Return COCO's classes for as many of them, or as many ids; else nameless ones."""
    if (code is DETREX and num_classes == len(CLASSES)) or (code is OFFICIAL and num_classes == NUM_IDS):
        unused = num_classes - len(CLASSES)
        return {
            "id2label": dict(enumerate(CLASSES.values())),
            "category_ids": list(CLASSES),
            "num_unused_classes": unused,
        }
    return {"num_labels": num_classes}


def _backbone_fields(shapes: Shapes, code: Code, num_levels: int, place: str) -> dict[str, Any]:
    """Return what concerns the backbone and what it is joined to."""
    names = set(shapes)
    if {"backbone.stem.conv1.weight", "backbone.0.body.conv1.weight"} & names:
        fields = {"backbone_config": _resnet(shapes), "freeze_backbone": code.frozen_stages}
    elif {"backbone.downsample_layers.0.0.weight"} & names:
        fields = {"backbone_config": _convnext(shapes), "freeze_backbone": False}
    elif {"backbone.layers.0.blocks.0.attn.qkv.weight", "backbone.0.layers.0.blocks.0.attn.qkv.weight"} & names:
        fields = {"backbone_config": _swin(shapes), "freeze_backbone": False}
    elif "backbone.net.blocks.0.attn.qkv.weight" in names:
        vit = _vitdet(shapes)
        fields = {"backbone_config": vit, "freeze_backbone": False, "pad_to_patch_size": False}
    elif any(re.search(r"backbone\.net\..*blocks\.0\.ls1\.gamma", name) for name in names):
        fields = {"backbone_config": _dinov2(shapes), "freeze_backbone": True}
    else:
        parts = sorted(name for name in names if name.startswith("backbone."))[:3]
        raise ValueError(
            f"{place}: its backbone ({', '.join(parts)}, ...) is none that is known here; known are ResNet, Swin, "
            "ConvNeXt, ViTDet and DINOv2"
        )
    if "patch_size" in fields["backbone_config"] and any(name.startswith("backbone.simfp_") for name in names):
        return fields | _pyramid(shapes, fields["backbone_config"]["patch_size"], num_levels)
    fields["backbone_config"]["out_features"] = _taken_stages(shapes, code, fields["backbone_config"], place)
    return fields


def _taken_stages(shapes: Shapes, code: Code, backbone_config: dict[str, Any], place: str) -> list[str]:
    """Return the stages whose maps the neck takes, by their channels."""
    widths = backbone_config.get("hidden_sizes") or [
        backbone_config["embed_dim"] * 2**stage for stage in range(len(backbone_config["depths"]))
    ]
    convolutions = [shapes[code.neck.format(i)] for i in range(_count(shapes, code.neck.format(r"(\d+)")))]
    taken = [shape[1] for shape in convolutions if shape[-1] == 1]  # the others make further levels
    if not set(taken) <= set(widths) or sorted(taken) != taken:
        raise ValueError(f"{place}: its neck takes maps of {taken} channels, its backbone's stages give {widths}")
    return [f"stage{widths.index(channels) + 1}" for channels in taken]


def _resnet(shapes: Shapes) -> dict[str, Any]:
    official = "backbone.0.body.conv1.weight" in shapes
    stage_name = "backbone.0.body.layer{}" if official else "backbone.res{}"
    first = 1 if official else 2
    stages = [stage_name.format(first + i) for i in range(4)]
    basic = f"{stages[0]}.0.conv3.weight" not in shapes
    return {
        "model_type": "resnet",
        "layer_type": "basic" if basic else "bottleneck",
        "downsample_in_bottleneck": False,
        "embedding_size": shapes["backbone.0.body.conv1.weight" if official else "backbone.stem.conv1.weight"][0],
        "hidden_sizes": [shapes[f"{stage}.0.conv{2 if basic else 3}.weight"][0] for stage in stages],
        "depths": [_count(shapes, re.escape(stage) + r"\.(\d+)\.") for stage in stages],
    }


def _swin(shapes: Shapes) -> dict[str, Any]:
    prefix = "backbone.0." if "backbone.0.patch_embed.proj.weight" in shapes else "backbone."
    layers = _count(shapes, re.escape(prefix) + r"layers\.(\d+)\.")
    tables = [shapes[f"{prefix}layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(layers)]
    width = shapes[f"{prefix}patch_embed.proj.weight"][0]
    depths = [_count(shapes, re.escape(f"{prefix}layers.{i}.blocks.") + r"(\d+)\.") for i in range(layers)]
    return {
        "model_type": "swin",
        "patch_size": shapes[f"{prefix}patch_embed.proj.weight"][-1],
        "embed_dim": width,
        "depths": depths,
        "num_heads": [heads for _, heads in tables],
        "window_size": (int(tables[0][0] ** 0.5) + 1) // 2,
        "mlp_ratio": shapes[f"{prefix}layers.0.blocks.0.mlp.fc1.weight"][0] / width,
        "qkv_bias": f"{prefix}layers.0.blocks.0.attn.qkv.bias" in shapes,
        "drop_path_rate": _SWIN_DROP_PATH.get((width, tuple(depths)), 0.0),
        "use_absolute_embeddings": False,
    }


def _convnext(shapes: Shapes) -> dict[str, Any]:
    stages = range(_count(shapes, r"backbone\.downsample_layers\.(\d+)\."))
    return {
        "model_type": "convnext",
        "patch_size": shapes["backbone.downsample_layers.0.0.weight"][-1],
        "hidden_sizes": [shapes[f"backbone.stages.{i}.0.dwconv.weight"][0] for i in stages],
        "depths": [_count(shapes, rf"backbone\.stages\.{i}\.(\d+)\.") for i in stages],
        "num_stages": len(stages),
        "layer_scale_init_value": 1.0,
        "drop_path_rate": 0.0,
    }


def _vitdet(shapes: Shapes) -> dict[str, Any]:
    """Return a ViTDet's configuration; None where only relative positions of two lengths would tell."""
    prefix = "backbone.net."
    patch, width = shapes[f"{prefix}patch_embed.proj.weight"][-1], shapes[f"{prefix}patch_embed.proj.weight"][0]
    blocks = range(_count(shapes, r"backbone\.net\.blocks\.(\d+)\."))
    tables = [shapes[name] for i in blocks if (name := f"{prefix}blocks.{i}.attn.rel_pos_h") in shapes]
    sides = [(length + 1) // 2 for length, _ in tables]  # of what a block attends to, in patches
    windowed = len(tables) == len(blocks) and len(set(sides)) == 2
    positions = shapes[f"{prefix}pos_embed"][1]
    return {
        "model_type": "vitdet",
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": width // tables[0][1] if tables else None,
        "mlp_ratio": shapes[f"{prefix}blocks.0.mlp.fc1.weight"][0] // width,
        "layer_norm_eps": 1e-6,
        "patch_size": patch,
        "image_size": max(sides) * patch if windowed else None,
        "pretrain_image_size": int(positions**0.5) * patch,  # with or without a class token's position
        "qkv_bias": f"{prefix}blocks.0.attn.qkv.bias" in shapes,
        "window_size": min(sides) if windowed else None,
        "window_block_indices": [i for i in blocks if sides[i] == min(sides)] if windowed else None,
        "residual_block_indices": [],
        "use_absolute_position_embeddings": True,
        "use_relative_position_embeddings": bool(tables),
    }


def _dinov2(shapes: Shapes) -> dict[str, Any]:
    (projection,) = (name for name in shapes if re.fullmatch(r"backbone\.net\..*patch_embed\.proj\.weight", name))
    prefix = projection.removesuffix("patch_embed.proj.weight")
    width, patch = shapes[projection][0], shapes[projection][-1]
    grid = int((shapes[f"{prefix}pos_embed"][1] - 1) ** 0.5)
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": _count(shapes, re.escape(prefix) + r"blocks\.(\d+)\."),
        "num_attention_heads": width // _HEAD_WIDTH if width in _DINOV2_WIDTHS else None,
        "mlp_ratio": shapes[f"{prefix}blocks.0.mlp.fc1.weight"][0] // width,
        "layer_norm_eps": 1e-6,
        "patch_size": patch,
        "image_size": grid * patch,
        "qkv_bias": f"{prefix}blocks.0.attn.qkv.bias" in shapes,
        "apply_layernorm": False,
    }


def _pyramid(shapes: Shapes, patch_size: int, num_levels: int) -> dict[str, Any]:
    """Return the pyramid's levels: of those that are there, the coarsest as many as the transformer sees but one."""
    stages = sorted({int(name.split(".")[1].removeprefix("simfp_")) for name in shapes if "backbone.simfp_" in name})
    norms = [name for name in shapes if re.fullmatch(rf"backbone\.simfp_{stages[-1]}\.\d+\.norm\.weight", name)]
    return {
        "pyramid_channels": shapes[max(norms)][0],
        "pyramid_scale_factors": [patch_size / 2**stage for stage in stages[-(num_levels - 1) :]],
    }


def _count(shapes: Shapes, pattern: str) -> int:
    """Return one more than the largest number that the pattern finds at the start of a name."""
    numbers = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return max(numbers, default=-1) + 1
