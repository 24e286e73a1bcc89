"""The model made known to transformers' Auto classes and pipelines, by being imported."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from .configuration_dino_detr import DinoDetrConfig
from .image_processing_dino_detr import DinoDetrImageProcessor
from .modeling_dino_detr import DinoDetrForObjectDetection, DinoDetrModel

AutoConfig.register(DinoDetrConfig.model_type, DinoDetrConfig)
AutoModel.register(DinoDetrConfig, DinoDetrModel)
AutoModelForObjectDetection.register(DinoDetrConfig, DinoDetrForObjectDetection)
AutoImageProcessor.register(DinoDetrConfig, image_processor_classes={"torchvision": DinoDetrImageProcessor})
# `pipeline` looks for a video processor too and, unless told that there is none, asks at the terminal for permission
# to run its code from the checkpoint
VIDEO_PROCESSOR_MAPPING.register(DinoDetrConfig, None)  # pyright: ignore[reportArgumentType]

# saving a model saves its code beside it, so that it loads elsewhere with `trust_remote_code=True`
DinoDetrConfig.register_for_auto_class()
DinoDetrModel.register_for_auto_class("AutoModel")
DinoDetrForObjectDetection.register_for_auto_class("AutoModelForObjectDetection")
DinoDetrImageProcessor.register_for_auto_class()
