"""The detector a run starts from: a new one, or one that was trained before, made to fit other data."""

import re

import torch
from transformers.utils import logging

from ..configuration_dino_detr import DinoDetrConfig
from ..modeling_dino_detr import DinoDetrForObjectDetection
from .options import DinoDetrTrainingArguments

logger = logging.get_logger(__name__)

_OF_CLASSES = re.compile(r"model\.(class_embed\.\d+\.(weight|bias)|denoising_class_embed\.weight)")
_QUERIES = "model.query_embed.weight"


def build_model(options: DinoDetrTrainingArguments, names: list[str], ids: list[int]) -> DinoDetrForObjectDetection:
    """The detector the options ask for, with the data set's classes."""
    arguments = dict(options.model_config or {})
    for name in ("num_queries", "num_denoising"):
        if getattr(options, name) is not None:
            arguments[name] = getattr(options, name)
    arguments |= {"id2label": dict(enumerate(names)), "category_ids": ids, "freeze_backbone": options.freeze_backbone}
    if options.model is not None:
        return load_for_fine_tuning(options.model, **arguments)
    if options.backbone is not None:
        return DinoDetrForObjectDetection.from_backbone(options.backbone, patch_size=options.patch_size, **arguments)
    return DinoDetrForObjectDetection(DinoDetrConfig(**arguments))


def load_for_fine_tuning(
    source: str, id2label: dict[int, str] | None = None, **config_arguments
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
    trained = DinoDetrForObjectDetection.from_pretrained(source)
    former, weights = trained.config, trained.state_dict()
    changes = dict(config_arguments)
    if id2label is not None:
        changes |= {"id2label": id2label, "label2id": None, "category_ids": config_arguments.get("category_ids")}
    config = DinoDetrConfig(**(former.to_dict() | changes))
    renewed = []
    if not _same_classes(former, config):
        renewed = [name for name in weights if _OF_CLASSES.fullmatch(name)]
    trained_queries = weights[_QUERIES]
    anew = [*renewed, _QUERIES] if len(trained_queries) != config.num_queries else renewed
    model, loading = DinoDetrForObjectDetection.from_pretrained(
        None,
        config=config,
        state_dict={name: tensor for name, tensor in weights.items() if name not in anew},
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    unfit = sorted({str(key) for kind in ("mismatched_keys", "unexpected_keys") for key in loading[kind]})
    unfit += sorted(set(loading["missing_keys"]) - set(anew))
    if unfit:
        raise ValueError(
            f"{source} has no weights for what is asked of it ({', '.join(sorted(changes))}): {', '.join(unfit[:5])}"
        )
    if anew != renewed:
        kept = min(len(trained_queries), config.num_queries)
        with torch.no_grad():
            model.model.query_embed.weight[:kept] = trained_queries[:kept]
        logger.warning(f"{source} had {len(trained_queries)} queries: {kept} are kept, {config.num_queries} run")
    if renewed:
        logger.warning(
            f"{source} knows the classes {_shown(former)}, the data {_shown(config)}: these weights start anew: "
            + ", ".join(renewed)
        )
    return model


def _same_classes(former: DinoDetrConfig, config: DinoDetrConfig) -> bool:
    nameless = {index: f"LABEL_{index}" for index in range(config.num_labels)}
    return former.id2label in (config.id2label, nameless)


def _shown(config: DinoDetrConfig) -> str:
    names = [config.id2label[index] for index in range(config.num_labels)]
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
