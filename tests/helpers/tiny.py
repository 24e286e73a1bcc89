"""Detectors small enough for a test."""

import torch
from transformers import CONFIG_MAPPING, TimmBackboneConfig

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection
from dino_detr.denoising import DenoisingQueries, draw_denoising_queries
from dino_detr.targets import Targets

TRANSFORMERS_BACKBONES = ("dinov2", "dinov2_with_registers", "dinov3_vit")
PLAIN_BACKBONES = (*TRANSFORMERS_BACKBONES, "timm_backbone")  # ViTs whose patch size can be changed
ALL_BACKBONES = (*PLAIN_BACKBONES, "vitdet", "resnet", "swin")

_STAGES = ["stage2", "stage3", "stage4"]
_OTHERS = {
    "vitdet": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 64,
        "pretrain_image_size": 32, "patch_size": 16, "window_size": 2, "window_block_indices": [0],
        "use_relative_position_embeddings": True,
    },
    "resnet": {
        "embedding_size": 8, "hidden_sizes": [16, 16, 24, 32], "depths": [1, 2, 1, 1], "out_features": _STAGES,
    },
    "swin": {
        "image_size": 64, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 3,
        "mlp_ratio": 2, "out_features": _STAGES,
    },
}  # fmt: skip


def tiny_backbone_config(kind: str = "dinov2", **arguments):
    """
    Two blocks of width 32 on patches of 16 pixels, a 4x4 position grid where there is one; or four stages, of which the
    maps of three are taken.
    """
    if kind in _OTHERS:
        return CONFIG_MAPPING[kind](**_OTHERS[kind] | arguments)
    if kind == "timm_backbone":
        timm_arguments = {
            "img_size": 64,
            "patch_size": 16,
            "dynamic_img_size": True,
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 2,
        }
        return TimmBackboneConfig(
            backbone="vit_tiny_patch16_224", out_indices=[-1], timm_arguments=timm_arguments | arguments
        )
    defaults = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    }
    if kind == "dinov3_vit":
        defaults |= {"intermediate_size": 64, "num_register_tokens": 3}
    else:
        defaults |= {"mlp_ratio": 2, "apply_layernorm": False}
    return CONFIG_MAPPING[kind](**defaults | arguments)


def tiny_arguments(**arguments) -> dict:
    """Of `DinoDetrConfig`, but for the backbone's."""
    return {
        "d_model": 64,
        "pyramid_channels": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "num_queries": 20,
        "num_denoising": 10,
        "id2label": {0: "cat", 1: "dog", 2: "emu"},
    } | arguments


def tiny_config(backbone: str = "dinov2", **arguments) -> DinoDetrConfig:
    if "backbone_config" not in arguments:
        arguments["backbone_config"] = tiny_backbone_config(backbone)
    return DinoDetrConfig(**tiny_arguments(**arguments))


@torch.no_grad()
def shake(module: torch.nn.Module, seed: int = 0, scale: float = 0.1) -> None:
    """Move every weight, so that nothing is zero or equal to its neighbour, as much is at initialisation."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter += scale * torch.randn(parameter.shape, generator=generator)


def tiny_detector(backbone: str = "dinov2", seed: int = 0, **arguments) -> DinoDetrForObjectDetection:
    """In eval mode, with weights that matter."""
    torch.manual_seed(seed)
    model = DinoDetrForObjectDetection(tiny_config(backbone, **arguments))
    shake(model, seed)
    return model.eval()


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_labels(*counts: int, num_labels: int = 3, seed: int = 0) -> list[dict]:
    """Boxes of 0.1 to 0.4 of the image's sides, within it."""
    generator = torch.Generator().manual_seed(seed)
    labels = []
    for count in counts:
        size = 0.1 + 0.3 * torch.rand(count, 2, generator=generator)
        centre = size / 2 + (1 - size) * torch.rand(count, 2, generator=generator)
        classes = torch.randint(num_labels, (count,), generator=generator)
        labels.append({"class_labels": classes, "boxes": torch.cat([centre, size], dim=1)})
    return labels


def draw_noise(labels: list[dict], seed: int = 0, **arguments) -> DenoisingQueries | None:
    """Denoising queries for a batch, as a tiny detector with these arguments draws them."""
    torch.manual_seed(seed)
    targets = Targets.from_labels(labels, len(labels), torch.device("cpu"))
    return draw_denoising_queries(targets, tiny_config(**arguments))
