"""YOLO and VOC data sets become COCO folders, so that training reads one form only."""

from .coco_folder import format_problems, import_data

__all__ = ["format_problems", "import_data"]
