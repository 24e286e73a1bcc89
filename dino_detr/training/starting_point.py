"""The detector a run starts from: a new one, or one that was trained before, made to fit other data."""

import re
from typing import Any

import torch
from transformers.utils import logging

from ..configuration_dino_detr import DinoDetrConfig
from ..modeling_dino_detr import DinoDetrForObjectDetection
from .adapters import add_adapters
from .options import DinoDetrTrainingArguments
from .progress import without_load_report

logger = logging.get_logger(__name__)

_OF_CLASSES = re.compile(r"model\.(class_embed\.\d+\.(weight|bias)|denoising_class_embed\.weight)")
_QUERIES = "model.query_embed.weight"


def build_model(options: DinoDetrTrainingArguments, names: list[str], ids: list[int]) -> DinoDetrForObjectDetection:
    """The detector the options ask for, with the data set's classes and adapters, if there are to be some."""
    model = _build_model(options, names, ids)
    if options.lora_rank is not None:
        add_adapters(model, options.lora_rank, options.lora_targets)
    return model


def _build_model(options: DinoDetrTrainingArguments, names: list[str], ids: list[int]) -> DinoDetrForObjectDetection:
    arguments = dict(options.model_config or {})
    for name in ("num_queries", "num_denoising"):
        if getattr(options, name) is not None:
            arguments[name] = getattr(options, name)
    if options.class_weights is not None:
        arguments["class_weights"] = _weights_in_order(options.class_weights, names)
    arguments |= {"id2label": dict(enumerate(names)), "category_ids": ids, "freeze_backbone": options.freeze_backbone}
    if options.model is not None:
        return load_for_fine_tuning(options.model, **arguments)
    if options.backbone is not None:
        return DinoDetrForObjectDetection.from_backbone(options.backbone, patch_size=options.patch_size, **arguments)
    return DinoDetrForObjectDetection(DinoDetrConfig(**arguments))


def _weights_in_order(weights: dict[str, float], names: list[str]) -> list[float]:
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ValueError(f"class_weights has {unknown[0]!r}, which is none of the classes {', '.join(names)}")
    for name, weight in weights.items():
        if not isinstance(weight, (int, float)) or not weight > 0:
            raise ValueError(f"class_weights: {name!r} has {weight!r}, which is no number above 0")
    return [float(weights.get(name, 1.0)) for name in names]


def load_for_fine_tuning(
    source: str, id2label: dict[int, str] | None = None, **config_arguments: Any
) -> DinoDetrForObjectDetection:
    """
    A trained detector for other classes, or with another number of queries.

    If `id2label` has other names than the checkpoint, in other places or numbers, the class heads and the denoising
    embedding start anew, nothing else, and a warning names them. A checkpoint whose classes have no names keeps them
    if it has as many. With more `num_queries` the trained ones keep their places before the new ones; with fewer,
    the first are kept.

    Args:
        source: checkpoint folder or Hub id.
        id2label: class names by index; None: the checkpoint's.
        config_arguments: other fields of `DinoDetrConfig` to change.

    Raises:
        ValueError: if a changed field needs weights of other shapes than the checkpoint has.
    """
    former = DinoDetrConfig.from_pretrained(source)
    changes = dict(config_arguments)
    if id2label is not None:
        changes |= {"id2label": id2label, "label2id": None}
        changes |= {name: config_arguments.get(name) for name in ("category_ids", "class_weights")}
        if not _same_names(former, id2label):  # columns that no class of the data has
            changes["num_unused_classes"] = 0
    config = DinoDetrConfig(**(former.to_dict() | changes))
    with without_load_report():
        model, loading = DinoDetrForObjectDetection.from_pretrained(
            source, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    weights = model.state_dict()
    unfit = [str(key[0] if isinstance(key, tuple) else key) for key in loading["mismatched_keys"]]
    unfit = sorted(name for name in unfit if not _OF_CLASSES.fullmatch(name) and name != _QUERIES)
    unfit += sorted({*loading["unexpected_keys"], *loading["missing_keys"]})
    if unfit:
        raise ValueError(
            f"{source} has no weights for what is asked of it ({', '.join(sorted(changes))}): {', '.join(unfit[:5])}"
        )
    if not _same_names(former, config.id2label):  # also where they are as many, and were loaded
        renewed = [name for name in weights if _OF_CLASSES.fullmatch(name)]
        new = _new_weights(config)
        for name in renewed:
            weights[name].copy_(new[name])
        logger.warning(
            f"{source} knows the classes {_shown(former)}, the data {_shown(config)}: these weights start anew: "
            + ", ".join(renewed)
        )
    if former.num_queries != config.num_queries:
        kept = min(former.num_queries, config.num_queries)
        trained = DinoDetrForObjectDetection.from_pretrained(source).state_dict()[_QUERIES]
        weights[_QUERIES][:kept].copy_(trained[:kept])
        logger.warning(f"{source} had {former.num_queries} queries: {kept} are kept, {config.num_queries} run")
    return model


def _new_weights(config: DinoDetrConfig) -> dict[str, torch.Tensor]:
    """Return the weights of a new detector with the same heads and a small backbone."""
    vit = {"model_type": "dinov2", "image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1}
    small = config.to_dict() | {"backbone_config": vit | {"num_attention_heads": 1}, "encoder_layers": 1}
    small |= {"freeze_backbone": True, "pyramid_scale_factors": [1.0]}  # as suits it
    return DinoDetrForObjectDetection(DinoDetrConfig(**small)).state_dict()


def _same_names(former: DinoDetrConfig, id2label: dict[Any, str] | None) -> bool:
    nameless = {index: f"LABEL_{index}" for index in id2label or {}}
    return former.id2label in (id2label, nameless)


def _shown(config: DinoDetrConfig) -> str:
    names = [name for _, name in sorted((config.id2label or {}).items())]
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
