"""Detection: `Detector` in Python, `predict` for files of pictures and what was found in them."""

from .detections import Detections
from .detector import Detector
from .predict import predict

__all__ = ["Detections", "Detector", "predict"]
