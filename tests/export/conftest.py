"""A checkpoint to export: tiny, of the digits' classes."""

import pytest
import transformers
from helpers.tiny import tiny_detector
from packaging import version

from dino_detr import DinoDetrImageProcessor
from dino_detr.data import class_names, load_detection_dataset

collect_ignore = []
if version.parse(transformers.__version__) < version.parse("5.23"):
    collect_ignore = ["test_exporting.py", "test_quantization.py"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "checkpoint"
    names = class_names(load_detection_dataset("digits", "val"))
    tiny = {"pyramid_scale_factors": [1.0, 0.5], "num_feature_levels": 3, "decoder_layers": 1}
    tiny_detector(id2label=dict(enumerate(names)), **tiny).save_pretrained(folder)
    DinoDetrImageProcessor(size={"shortest_edge": 144, "longest_edge": 192}).save_pretrained(folder)
    return folder
