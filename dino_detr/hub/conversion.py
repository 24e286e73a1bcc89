"""Checkpoints with detrex's parameter names become ours."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..configuration_dino_detr import DinoDetrConfig
from ..modeling_dino_detr import DinoDetrForObjectDetection

# (detrex's name, ours); `\1` stands for what the first group matched.
_RENAMES = [
    (r"(?:transformer\.decoder\.)?(class_embed|bbox_embed)\.(.+)", r"\1.\2"),
    (r"label_enc\.weight", "denoising_class_embed.weight"),
    (r"neck\.convs\.(\d+)\.conv\.(.+)", r"neck.levels.\1.0.\2"),
    (r"neck\.convs\.(\d+)\.norm\.(.+)", r"neck.levels.\1.1.\2"),
    (r"transformer\.level_embeds", "level_embed"),
    (r"transformer\.tgt_embed\.weight", "query_embed.weight"),
    (r"transformer\.(enc_output|enc_output_norm)\.(.+)", r"query_selection.\1.\2"),
    (r"transformer\.decoder\.(norm|ref_point_head)\.(.+)", r"decoder.\1.\2"),
    (r"transformer\.(\w+\.layers\.\d+)\.ffns\.0\.layers\.0\.0\.(.+)", r"\1.ffn.fc1.\2"),
    (r"transformer\.(\w+\.layers\.\d+)\.ffns\.0\.layers\.1\.(.+)", r"\1.ffn.fc2.\2"),
    (r"transformer\.(encoder\.layers\.\d+)\.attentions\.0\.(.+)", r"\1.self_attn.\2"),
    (r"transformer\.(encoder\.layers\.\d+)\.norms\.0\.(.+)", r"\1.self_attn_layer_norm.\2"),
    (r"transformer\.(encoder\.layers\.\d+)\.norms\.1\.(.+)", r"\1.ffn_layer_norm.\2"),
    (r"transformer\.(decoder\.layers\.\d+)\.attentions\.0\.attn\.(.+)", r"\1.self_attn.\2"),
    (r"transformer\.(decoder\.layers\.\d+)\.attentions\.1\.(.+)", r"\1.encoder_attn.\2"),
    (r"transformer\.(decoder\.layers\.\d+)\.norms\.0\.(.+)", r"\1.self_attn_layer_norm.\2"),
    (r"transformer\.(decoder\.layers\.\d+)\.norms\.1\.(.+)", r"\1.encoder_attn_layer_norm.\2"),
    (r"transformer\.(decoder\.layers\.\d+)\.norms\.2\.(.+)", r"\1.ffn_layer_norm.\2"),
]

# (timm's name, that of transformers' files), of what is under `backbone.net.` and detrex's wrappers
_VIT_RENAMES = [
    (r"cls_token", "embeddings.cls_token"),
    (r"pos_embed", "embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(.+)", r"embeddings.patch_embeddings.projection.\1"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.attn\.qkv\.(.+)", r"encoder.layer.\1.attention.in_proj_\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(.+)", r"encoder.layer.\1.attention.output.dense.\2"),
    (r"blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.(.+)", r"encoder.layer.\1.\2.\3"),
]

# Modules that resize, before the two convolutions of a pyramid level (the same number in detectron2 and here).
_RESIZING_MODULES = {4.0: 4, 2.0: 1, 1.0: 0, 0.5: 1}


def load_reference_checkpoint(state_dict_path: str | Path, config_path: str | Path) -> DinoDetrForObjectDetection:
    """
    Load the weights of a detrex checkpoint (DINO on the simple feature pyramid of a DINOv2 of timm) into a detector.

    Args:
        state_dict_path: `.safetensors`, or a torch file that loads with `weights_only` (bare or under `"model"`).
        config_path: JSON with the values of the model, loss, matcher and optimiser, as beside the golden sets.

    Returns:
        The model, in float32 and eval mode, its backbone frozen.

    Raises:
        ValueError: if the configuration asks for what this model does not have, or names and shapes do not all match.
    """
    state_dict_path = Path(state_dict_path)
    if state_dict_path.suffix == ".safetensors":
        state = load_file(state_dict_path)
    else:
        state = torch.load(state_dict_path, map_location="cpu", weights_only=True)
        state = state.get("model", state)
    config = convert_config(json.loads(Path(config_path).read_text(encoding="utf-8")))
    weights = convert_state_dict(state, config)
    with tempfile.TemporaryDirectory() as folder:
        # through a file, because only files are read alike by every version of transformers
        config.save_pretrained(folder)
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        model, loading = DinoDetrForObjectDetection.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder, dtype=torch.float32, output_loading_info=True
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if loading[problem]:
            raise ValueError(f"{state_dict_path} does not fit {config_path}: {problem} {sorted(loading[problem])[:5]}")
    model.config._name_or_path = ""
    return model


def convert_config(reference: dict) -> DinoDetrConfig:
    """
    Our configuration for the reference's values.

    Raises:
        ValueError: naming the first value that this model cannot take.
    """
    vit, matcher, weights = reference["vit"], reference["matcher"], reference["loss_weights"]
    levels = _used_levels(reference)
    _check_fixed(reference)
    return DinoDetrConfig(
        backbone_config={
            "model_type": "dinov2",
            "hidden_size": vit["embed_dim"],
            "num_hidden_layers": vit["depth"],
            "num_attention_heads": vit["num_heads"],
            "mlp_ratio": int(vit["mlp_ratio"]),
            "patch_size": vit["patch_size"],
            "image_size": vit["img_size"],
            "qkv_bias": vit["qkv_bias"],
            "layer_norm_eps": vit["ln_eps"],
        },
        freeze_backbone=True,
        position_embedding_antialias=True,
        num_labels=reference["num_classes"],  # pyright: ignore[reportCallIssue]
        d_model=reference["embed_dim"],
        pyramid_channels=reference["pyramid_out_channels"],
        pyramid_scale_factors=[factor for factor in reference["pyramid_scale_factors"] if factor in levels],
        num_feature_levels=reference["num_feature_levels"],
        encoder_layers=reference["enc_layers"],
        decoder_layers=reference["dec_layers"],
        encoder_attention_heads=reference["num_heads"],
        decoder_attention_heads=reference["num_heads"],
        encoder_ffn_dim=reference["feedforward_dim"],
        decoder_ffn_dim=reference["feedforward_dim"],
        encoder_n_points=reference["num_points"],
        decoder_n_points=reference["num_points"],
        num_queries=reference["num_queries"],
        num_denoising=reference["dn_number"],
        label_noise_ratio=reference["label_noise_ratio"],
        box_noise_scale=reference["box_noise_scale"],
        class_cost=matcher["cost_class"],
        bbox_cost=matcher["cost_bbox"],
        giou_cost=matcher["cost_giou"],
        class_loss_coefficient=weights["loss_class"],
        bbox_loss_coefficient=weights["loss_bbox"],
        giou_loss_coefficient=weights["loss_giou"],
        focal_alpha=reference["focal_alpha"],
        focal_gamma=reference["focal_gamma"],
    )


def _check_fixed(reference: dict) -> None:
    """Check that what this model has no choice of is as it is here."""
    vit, matcher, weights = reference["vit"], reference["matcher"], reference["loss_weights"]
    fixed = {
        "inverse_sigmoid_eps": (reference["inverse_sigmoid_eps"], 1e-3),
        "neck_norm": (reference["neck_norm"], "GroupNorm(32)"),
        "neck_kernel": (reference["neck_kernel"], 1),
        "num_feature_levels": (reference["num_feature_levels"], len(reference["feature_names"])),
        "pos_embed": (
            [reference["pos_embed"][key] for key in ("temperature", "normalize", "offset", "eps", "num_pos_feats")],
            [10000, True, -0.5, 1e-6, reference["embed_dim"] // 2],
        ),
        "decoder_query_sine": (
            [reference["decoder_query_sine"][key] for key in ("temperature", "num_pos_feats")],
            [10000, reference["embed_dim"] // 2],
        ),
        "matcher's alpha and gamma": (
            [matcher["alpha"], matcher["gamma"]],
            [reference["focal_alpha"], reference["focal_gamma"]],
        ),
        "loss_weights": (
            weights,  # the same for every layer, the encoder's head and denoising
            {name: weights["_".join(name.split("_")[:2])] for name in weights},
        ),
        "vit.mlp_ratio": (vit["mlp_ratio"], int(vit["mlp_ratio"])),
        "vit.final_norm": (vit["final_norm"], False),
        "vit.class_token": (vit["class_token"], True),
        "vit.register_tokens": (vit["register_tokens"], 0),
        "vit.layer_scale": (vit["layer_scale"], True),
        "vit.pos_embed_grid": (vit["pos_embed_grid"], [vit["img_size"] // vit["patch_size"]] * 2),
    }
    for name, (value, expected) in fixed.items():
        if value != expected:
            raise ValueError(f"reference config: {name} is {value}, but this model has {expected}")


def _used_levels(reference: dict) -> dict[float, str]:
    """The pyramid's `{scale factor: level name}` that the transformer sees; levels are named p<log2 of the stride>."""
    patch_size = reference["vit"]["patch_size"]
    names = {factor: f"p{int(patch_size / factor).bit_length() - 1}" for factor in reference["pyramid_scale_factors"]}
    used = {factor: name for factor, name in names.items() if name in reference["feature_names"]}
    extra = len(reference["feature_names"]) - len(used)
    last = f"p{max(int(name[1:]) for name in names.values()) + 1}"
    if reference["feature_names"] != list(used.values()) + [last] * extra or extra > bool(
        reference["pyramid_top_block"]
    ):
        raise ValueError(
            f"reference config: feature_names {reference['feature_names']} are not levels {names} and above"
        )
    return used


def convert_state_dict(state: dict[str, Tensor], config: DinoDetrConfig) -> dict[str, Tensor]:
    """
    Tensors under detrex's names -> the same under the names of our checkpoint files.

    Works for parameters, gradients or any subset of them. The heads, which detrex stores twice, come out once.

    Raises:
        ValueError: for names that have no place here.
    """
    backbone_config: Any = config.backbone_config
    pyramid = {}  # detectron2 names levels by log2 of their stride, we by their place
    for place, factor in enumerate(config.pyramid_scale_factors):
        stage = int(backbone_config.patch_size / factor).bit_length() - 1
        pyramid[stage] = (place, _RESIZING_MODULES[factor])

    converted, unknown = {}, []
    for name, tensor in state.items():
        if name in ("pixel_mean", "pixel_std"):  # the processor's business
            continue
        if match := re.fullmatch(r"backbone\.simfp_(\d+)\.(\d+)\.(norm\.)?(weight|bias)", name):
            stage, index, norm, kind = int(match[1]), int(match[2]), bool(match[3]), match[4]
            if stage not in pyramid:
                continue  # a level the transformer does not see
            place, resizing = pyramid[stage]
            index = index if index < resizing else resizing + 2 * (index - resizing) + norm
            names = [f"pyramid.levels.{place}.{index}.{kind}"]
        elif match := re.fullmatch(r"backbone\.net\.(?:timm_model\.)?(?:model\.)?(.+)", name):
            names = [f"backbone.model.{renamed}" for renamed in _rename(match[1], _VIT_RENAMES)]
        else:
            names = _rename(name, _RENAMES)
        if names:
            converted |= _split_projections(f"model.{names[0]}", tensor)
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"no place for {len(unknown)} tensors of the reference checkpoint: {', '.join(unknown[:5])}")
    if "model.backbone.model.embeddings.cls_token" in converted:
        # what transformers' class has beyond the reference's and does not use
        width = backbone_config.hidden_size
        converted["model.backbone.model.embeddings.mask_token"] = torch.zeros(1, width)
        converted["model.backbone.model.layernorm.weight"] = torch.ones(width)
        converted["model.backbone.model.layernorm.bias"] = torch.zeros(width)
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def _rename(name: str, renames: list[tuple[str, str]]) -> list[str]:
    return [re.sub(pattern, replacement, name) for pattern, replacement in renames if re.fullmatch(pattern, name)]


def _split_projections(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Split the query, key and value projections, which detrex and timm keep as one tensor."""
    if ".in_proj_" not in name:
        return {name: tensor}
    owner, kind = name.rsplit(".in_proj_", 1)
    parts = (
        ("attention.query", "attention.key", "attention.value")
        if "backbone" in owner
        else ("q_proj", "k_proj", "v_proj")
    )
    return {f"{owner}.{part}.{kind}": chunk.clone() for part, chunk in zip(parts, tensor.chunk(3))}
