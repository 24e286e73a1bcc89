"""How much memory a run will take, from what is known and what was measured: docs/explanation/performance.md."""

import math
import os
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..backbone import DinoDetrBackbone
from ..modeling_dino_detr import DinoDetrForObjectDetection
from .adapters import has_adapters
from .options import DinoDetrTrainingArguments

ERROR = 0.3  # of an estimate, either way; the measured ones were at most a tenth off

_FLOAT = 4  # bytes
_WORKER = 200 * 2**20  # bytes of a process that reads images
_BF16, _CHECKPOINTING = 0.72, 0.65  # of the activations in float32, of those without

# Numbers kept for the backward pass. Measured on a CPU, on sizes from 144 x 192 to 800 x 1066, widths of 96 to 256.
_OF_ENCODER_LAYER = 5.5  # of a token and of each of its features
_OF_SAMPLE = 13  # of each point that an encoder layer samples for a token
_OF_TOKEN = 36  # of each of its features, outside of the layers
_OF_QUERY = 30  # of each of its features in a decoder layer
_OF_DECODER_LAYER = 1.2  # of each feature of a token
_OF_PATCH = 0.5  # of each feature of a backbone's map, besides what a trained backbone keeps
_IN_EVALUATION = 15  # of each feature of a token, where nothing is kept


def estimate_memory(
    options: DinoDetrTrainingArguments, model: DinoDetrForObjectDetection, size: tuple[int, int]
) -> float:
    """
    Return the bytes that this process, on a GPU the device, will hold at most, data workers included.

    Args:
        options: of the run.
        model: as it will be trained.
        size: height and width of the largest image.
    """
    trained = _FLOAT * sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = _FLOAT * sum(p.numel() for p in model.parameters())
    shards = options.world_size if os.environ.get("ACCELERATE_USE_FSDP") == "true" else 1
    moments, gradients = 2 * trained / shards, trained / shards
    averages = weights / shards if options.ema_decay is not None else 0
    held = moments + averages
    if options.device.type == "cpu":  # the weights are there already
        held += psutil.Process().memory_info().rss + _WORKER * options.dataloader_num_workers
    else:
        held += weights / shards
    activations = options.per_device_train_batch_size * activations_of_image(options, model, size)
    if options.gradient_accumulation_steps > 1 or options.world_size > 1:  # gradients are there when the next part runs
        step = activations + gradients
    else:
        step = max(activations, gradients)
    evaluation = 0
    if options.eval_strategy != "no":
        evaluation = (
            options.per_device_eval_batch_size * _FLOAT * _IN_EVALUATION * _tokens(model, size) * model.config.d_model
        )
    return held + max(step, evaluation)


def activations_of_image(
    options: DinoDetrTrainingArguments, model: DinoDetrForObjectDetection, size: tuple[int, int]
) -> float:
    """Return the bytes that are kept of one image of this size for the backward pass."""
    config = model.config
    tokens, width = _tokens(model, size), config.d_model
    queries = config.num_queries + 2 * config.num_denoising
    samples = config.encoder_attention_heads * config.num_feature_levels * config.encoder_n_points
    numbers = (
        tokens * config.encoder_layers * (_OF_ENCODER_LAYER * width + _OF_SAMPLE * samples)
        + tokens * width * (_OF_TOKEN + _OF_DECODER_LAYER * config.decoder_layers)
        + _OF_QUERY * queries * width * config.decoder_layers
        + _OF_PATCH * _patches(model, size) * model.model.backbone.channels[-1]
        + numbers_kept_by_backbone(model, size)
    )
    numbers *= _BF16 if options.bf16 or options.fp16 else 1
    numbers *= _CHECKPOINTING if options.gradient_checkpointing else 1
    return _FLOAT * numbers


def numbers_kept_by_backbone(model: DinoDetrForObjectDetection, size: tuple[int, int]) -> float:
    """Count what the backbone keeps of one image for the backward pass, on a copy that computes nothing."""
    with torch.device("meta"):
        backbone = DinoDetrBackbone(model.config).train()
        if has_adapters(model):  # keep about what its own layers would, if they were trained
            backbone.requires_grad_(True)
        pixels = torch.empty(1, 3, *size)
    weights = {parameter.untyped_storage()._cdata for parameter in backbone.parameters()}
    kept: dict[int, Tensor] = {}  # by storage, for several tensors may share one

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            kept[storage] = tensor
        return tensor

    with torch.device("meta"), torch.enable_grad(), _Attention(), saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = backbone(pixels)
    del maps
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / _FLOAT


class _Attention(TorchFunctionMode):
    """Have attention keep no matrix of every pair of tokens, as where something is computed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and kwargs.get("attn_mask") is None and len(args) == 3:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args)[0]
        return func(*args, **kwargs)


def _patches(model: DinoDetrForObjectDetection, size: tuple[int, int]) -> int:
    height, width = (math.ceil(side / model.model.backbone.stride) for side in size)
    return height * width


def _tokens(model: DinoDetrForObjectDetection, size: tuple[int, int]) -> float:
    """Over all levels: each further level has a quarter of the one before."""
    patches, config = _patches(model, size), model.config
    factors = config.pyramid_scale_factors or [2.0**level for level in range(config.num_backbone_maps - 1, -1, -1)]
    levels = [patches * factor**2 for factor in factors]
    while len(levels) < config.num_feature_levels:
        levels.append(levels[-1] / 4)
    return sum(levels)
