"""Small checkpoints as detrex and the DINO authors write them, and the command that converts them."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection
from helpers.original_names import DETREX, OFFICIAL, original_names
from helpers.tiny import shake, tiny_arguments

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
AUTHORS = {"share_decoder_heads": True, "position_embedding_temperature": 20, "position_embedding_offset": 0.0}


def detrex_state(columns: int = 80, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights of a small detector on a ResNet, under detrex's names."""
    return _state(DETREX, columns, seed, {})


def authors_state(columns: int = 91, seed: int = 0) -> dict[str, torch.Tensor]:
    """The same under the DINO authors' names; by default with a column for each of COCO's ids."""
    state = _state(OFFICIAL, columns, seed, AUTHORS)
    rows = state["label_enc.weight"]
    return state | {"label_enc.weight": torch.cat([rows, torch.randn(1, rows.shape[1])])}


def _state(names: str, columns: int, seed: int, arguments: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    classes = {index: str(index) for index in range(columns)}
    config = DinoDetrConfig(**tiny_arguments(backbone_config=RESNET, id2label=classes, **arguments))
    model = DinoDetrForObjectDetection(config)
    shake(model, seed, scale=0.05)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(Path(folder) / "model.safetensors")
    return {name: tensor.clone() for name, tensor in original_names(weights, config, names).items()}
