"""Checkpoints of detrex and of the DINO authors become ours."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from torch import Tensor

from ...configuration_dino_detr import DinoDetrConfig
from ...image_processing_dino_detr import DinoDetrImageProcessor
from ...modeling_dino_detr import DinoDetrForObjectDetection
from .coco import NUM_IDS
from .files import PublishedFile, read_published_file
from .names import convert_state_dict
from .shapes import OFFICIAL, config_from_shapes, find_code
from .values import apply_reference_config

__all__ = ["Converted", "convert_file", "convert_state_dict", "load_reference_checkpoint"]


class Converted(NamedTuple):
    """
    A checkpoint of another code, as this package's classes.

    Args:
        model: in float32 and eval mode, frozen as in its recipe.
        processor: what the model wants of images.
        code: whose names the tensors had, `detrex` or `IDEA-Research/DINO`.
        is_average: whether the file had a running average of the weights, which was taken then.
        reference_config: the file of what the shapes do not tell; None: that is as published.
    """

    model: DinoDetrForObjectDetection
    processor: DinoDetrImageProcessor
    code: str
    is_average: bool
    reference_config: str | None

    def describe(self) -> str:
        """Return, in a line, what was recognised and what was not in the file."""
        config: Any = self.model.config
        classes = f"{config.num_labels} classes" + (" of COCO" if config.category_ids else " without names")
        weights = ", the running average of its weights" if self.is_average else ""
        place = self.reference_config or "its published detectors"
        rest = (
            f"{config.encoder_attention_heads} heads with {config.encoder_n_points} points, a position temperature of "
            f"{config.position_embedding_temperature:g}, {config.num_denoising} denoising queries"
        )
        return (
            f"recognised {self.code}: {config.backbone_config.model_type} backbone, "
            f"{config.num_feature_levels} levels, {config.num_queries} queries, {classes}{weights}; "
            f"not in the file, taken from {place}: {rest}"
        )


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
    return convert_file(state_dict_path, config_path).model


def convert_file(state_dict_path: str | Path, config_path: str | Path | None = None) -> Converted:
    """Load a detector as `load_reference_checkpoint` does, with its processor and what was recognised."""
    place = str(state_dict_path)
    reference = None if config_path is None else _read_json(Path(config_path))
    published = read_published_file(state_dict_path)
    shapes = {name: tuple(tensor.shape) for name, tensor in published.weights.items()}
    fields = config_from_shapes(shapes, place)
    if reference is not None:
        fields = apply_reference_config(fields, reference, str(config_path))
    _check_told(fields, published, shapes, place)
    if fields.get("share_decoder_heads") and not _are_shared(published.weights, fields["decoder_layers"]):
        fields["share_decoder_heads"] = False
    try:
        config = DinoDetrConfig(**fields)
        weights = convert_state_dict(published.weights, config) | convert_state_dict(published.averaged, config)
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{place}: {' '.join(str(error).split())}") from error
    return Converted(
        _build(config, weights, place),
        DinoDetrImageProcessor(**_statistics(published.weights)),
        find_code(shapes, place).name,
        bool(published.averaged),
        None if config_path is None else Path(config_path).name,
    )


def _statistics(weights: dict[str, Tensor]) -> dict[str, list[float]]:
    """Return the mean and deviation that images are normalised with, if the file has them. Theirs are of 0..255."""
    return {
        ours: [round(value / 255, 6) for value in weights[theirs].flatten().tolist()]
        for theirs, ours in (("pixel_mean", "image_mean"), ("pixel_std", "image_std"))
        if theirs in weights
    }


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


def _are_shared(weights: dict[str, Tensor], num_layers: int) -> bool:
    """Return whether the layers' heads are alike, as those of one head for all are stored."""
    of_first = {name: weights[name] for name in weights if re.match(r"(class|bbox)_embed\.0\.", name)}
    others = [
        (head, name.replace(".0.", f".{layer}.", 1)) for name, head in of_first.items() for layer in range(num_layers)
    ]
    return all(name not in weights or _equal(head, weights[name]) for head, name in others)


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
