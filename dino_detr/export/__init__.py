"""Detectors leave PyTorch: exported, and compared with PyTorch before anyone uses them."""

from .exporting import export_detector
from .options import ExportOptions
from .runtime import ExportedDetector, is_export
from .verification import ExportFailed, Verification

__all__ = [
    "ExportFailed",
    "ExportOptions",
    "ExportedDetector",
    "Verification",
    "export_detector",
    "is_export",
]
