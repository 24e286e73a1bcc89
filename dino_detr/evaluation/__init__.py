"""How good a model is: COCO's figures, their curves over a run, and pictures of its detections."""

from .coco.metric import CocoDetectionMetric
from .coco.results import score_results, to_coco_results
from .coco.table import format_table
from .pictures import draw_detections
from .plots import draw_plots

__all__ = [
    "CocoDetectionMetric",
    "draw_detections",
    "draw_plots",
    "format_table",
    "score_results",
    "to_coco_results",
]
