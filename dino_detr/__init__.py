"""DINO detection on vision foundation backbones, native to Hugging Face transformers."""

from .configuration_dino_detr import DinoDetrConfig
from .modeling_dino_detr import DinoDetrForObjectDetection, DinoDetrModel

__all__ = ["DinoDetrConfig", "DinoDetrForObjectDetection", "DinoDetrModel"]
