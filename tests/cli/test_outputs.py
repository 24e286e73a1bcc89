"""Nothing the user made is overwritten by a verb, and a place that cannot be written is found before the work."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dino_detr.cli import main

HISTORY = "Step,bbox/AP\n" + "".join(f"{step},{50 - 40 / step}\n" for step in range(1, 12))
WRITERS = {
    "evaluate --output": ["evaluate", "results.json", "--dataset", "annotations.json", "--output"],
    "evaluate --predictions": ["evaluate", "CHECKPOINT", "--dataset", "digits", "--predictions"],
    "evaluate --report": ["evaluate", "results.json", "--dataset", "annotations.json", "--report"],
    "predict --output": ["predict", "CHECKPOINT", "photo.png", "--output"],
    "forecast --plot": ["forecast", "history.csv", "--plot"],
    "forecast --output": ["forecast", "history.csv", "--output"],
    "check-data --output": ["check-data", "digits", "--show", "2", "--output"],
    "check-data --checkpoint": ["check-data", "digits", "--checkpoint", "CHECKPOINT", "--output"],
    "convert --output": ["convert", "weights.pth", "--reference-config", "config.json", "--output"],
    "import-data --output": ["import-data", "yolo", "somewhere", "--output"],
    "benchmark --output": ["benchmark", "--output"],
    "compare --plot": ["compare", "one", "two", "--plot"],
    "compare --output": ["compare", "one", "two", "--plot", "new.png", "--output"],
}


@pytest.mark.parametrize("writer", [writer for writer in WRITERS if "benchmark" not in writer])  # see test_benchmark.py
def test_what_is_there_is_never_overwritten(writer, checkpoint, no_work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("annotations.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    Path("results.json").write_text("[]")
    Path("history.csv").write_text(HISTORY)
    Image.new("RGB", (9, 9)).save("photo.png")
    (tmp_path / "taken").mkdir()
    for name in ("detections.json", "config.json"):
        (tmp_path / "taken" / name).write_text("mine")
    folder = writer.split()[0] in ("predict", "convert", "import-data") or "report" in writer
    taken = "taken" if folder else "annotations.json"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match=taken):
        main([part.replace("CHECKPOINT", str(checkpoint)) for part in [*WRITERS[writer], taken]])
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_place_that_cannot_be_written_is_found_before_the_work(writer, checkpoint, no_work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Image.new("RGB", (9, 9)).save("photo.png")
    with pytest.raises(SystemExit, match="cannot write to"):
        main([part.replace("CHECKPOINT", str(checkpoint)) for part in [*WRITERS[writer], "file/new"]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photo.png"]


def test_two_outputs_are_two_files(tmp_path):
    same = [str(tmp_path / "same.json"), str(tmp_path / "x" / ".." / "same.json")]
    with pytest.raises(SystemExit, match="--plot and --output are both"):
        main(["forecast", "history.csv", "--plot", same[0], "--output", same[1]])
