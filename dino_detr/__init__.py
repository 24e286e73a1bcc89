"""DINO detection on vision foundation backbones, native to Hugging Face transformers."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .inference import Detector

__version__ = "0.2.0"

__all__ = ["Detector", "DinoDetrConfig", "DinoDetrForObjectDetection", "DinoDetrImageProcessor", "DinoDetrModel"]

# Importing this package makes transformers know the model, which takes seconds of importing torch. The `dino-detr`
# command does so when a verb runs, not before it prints its help.
if "dino_detr_command" not in sys.modules:
    from .auto_classes import DinoDetrConfig, DinoDetrForObjectDetection, DinoDetrImageProcessor, DinoDetrModel


def __getattr__(name: str) -> object:
    """Return a class that has not been needed yet."""
    if name == "Detector":
        from .inference import Detector

        return Detector
    if name in __all__:
        from . import auto_classes

        return getattr(auto_classes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
