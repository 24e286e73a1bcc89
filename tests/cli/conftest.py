"""A checkpoint, photographs, and a trap for verbs that begin their work."""

from pathlib import Path

import pytest
from helpers.tiny import tiny_detector
from PIL import Image

from dino_detr import DinoDetrImageProcessor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_detector().save_pretrained(folder)
    DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """Folders in folders, one name three times over, and a file that is no image."""
    for number, name in enumerate(("x.jpg", "x.png", "x_1.jpg", "inside/X.jpg", "inside/deeper/y.webp")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 60), (40 * number, 90, 200)).save(path)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"this is no image")
    (tmp_path / "photos" / "notes.txt").write_text("nor is this")
    return tmp_path / "photos"


@pytest.fixture
def no_work(monkeypatch):
    """Fails a test in which a verb starts its work."""

    def work(*_, **__):
        pytest.fail("the work has begun")

    for name in (
        "dino_detr.inference.Detector.__init__", "dino_detr.evaluation.coco.results.clean_results",
        "dino_detr.evaluation.forecast.forecast_ap", "dino_detr.data.check.check_split",
        "dino_detr.hub.load_reference_checkpoint", "dino_detr.data.importing.import_data",
        "dino_detr.benchmark.run_benchmark", "dino_detr.evaluation.comparison.read_runs",
    ):  # fmt: skip
        monkeypatch.setattr(name, work)
