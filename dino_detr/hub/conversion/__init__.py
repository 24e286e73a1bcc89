"""Checkpoints of detrex and of the DINO authors become ours."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...configuration_dino_detr import DinoDetrConfig
from ...modeling_dino_detr import DinoDetrForObjectDetection
from .coco import NUM_IDS
from .files import PublishedFile, read_published_file
from .names import convert_state_dict
from .shapes import OFFICIAL, config_from_shapes, find_code
from .values import apply_reference_config

__all__ = ["convert_state_dict", "load_reference_checkpoint"]


def load_reference_checkpoint(
    state_dict_path: str | Path, config_path: str | Path | None = None
) -> DinoDetrForObjectDetection:
    """
    Load a DINO detector of detrex, of IDEA-Research or of dgcnz/edge.

    The configuration is read off names and shapes. Of what those do not tell (attention heads, the embedding's
    temperature, the recipe's noise), it has the published detectors' values. Where a file has a running average of
    the weights beside them, that is taken. A head with a column for each of COCO's 91 ids is reduced to the 80 classes,
    with the same scores for them.

    Args:
        state_dict_path: `.safetensors`, or a file of `torch.save`.
        config_path: JSON with the values of the model, loss, matcher and optimiser, as beside the golden sets, for
            what shapes do not tell.

    Returns:
        The model, in float32 and eval mode, frozen as in its recipe.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if it is no DINO detector's or not read (see `read_published_file`), or names and shapes do not all
            match.
    """
    published = read_published_file(state_dict_path)
    shapes = {name: tuple(tensor.shape) for name, tensor in published.weights.items()}
    fields = config_from_shapes(shapes, str(state_dict_path))
    if config_path is not None:
        fields = apply_reference_config(fields, _read_json(Path(config_path)), str(config_path))
    _check_told(fields, published, shapes, str(state_dict_path))
    config = DinoDetrConfig(**fields)
    weights = convert_state_dict(published.weights, config) | convert_state_dict(published.averaged, config)
    return _build(config, weights, str(state_dict_path))


def _check_told(fields: dict[str, Any], published: PublishedFile, shapes: dict, place: str) -> None:
    """Refuse what neither shapes nor the code they are of tell."""
    code = find_code(shapes, place)
    untold = [name for name, value in fields["backbone_config"].items() if value is None]
    if untold:
        raise ValueError(
            f"{place}: names and shapes do not tell {', '.join(untold)} of its backbone; give its --reference-config"
        )
    if fields["d_model"] % fields["encoder_attention_heads"]:
        raise ValueError(f"{place}: shapes do not tell its attention heads and points; give its --reference-config")
    num_classes = fields.get("num_labels")
    dataset = published.arguments.get("dataset_file", "coco")
    is_of_ids = num_classes == NUM_IDS or fields.get("num_unused_classes")
    if is_of_ids and (code is not OFFICIAL or dataset != "coco" or shapes["label_enc.weight"][0] != NUM_IDS + 1):
        raise ValueError(
            f"{place}: its head has {NUM_IDS} columns, as IDEA-Research's has for COCO's ids, but "
            + (
                f"it was trained on {dataset!r}"
                if dataset != "coco"
                else f"it is of {code.name} with another label_enc"
            )
            + ": which class a column stands for is not known"
        )
    if code is OFFICIAL and fields["share_decoder_heads"]:
        first = published.weights.get("class_embed.0.weight")
        for layer in range(1, fields["decoder_layers"]):
            other = published.weights.get(f"class_embed.{layer}.weight")
            if first is not None and other is not None and not _equal(first, other):
                fields["share_decoder_heads"] = False


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.is_meta or b.is_meta or torch.equal(a, b)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _build(config: DinoDetrConfig, weights: dict[str, Tensor], place: str) -> DinoDetrForObjectDetection:
    with tempfile.TemporaryDirectory() as folder:
        # through a file, because only files are read alike by every version of transformers
        config.save_pretrained(folder)
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        model, loading = DinoDetrForObjectDetection.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder, dtype=torch.float32, output_loading_info=True
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if loading[problem]:
            raise ValueError(
                f"{place} does not fit its configuration: {problem} {sorted(map(str, loading[problem]))[:5]}"
            )
    model.config._name_or_path = ""
    return model
