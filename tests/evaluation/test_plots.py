"""Curves and pictures are written, whatever state a run left its files in."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_detr.evaluation import draw_plots
from dino_detr.runs.history import read_history
from dino_detr.training import parse_options, prepare, train


def write_lines(path, entries, tail=""):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)


def test_curves_of_a_killed_and_resumed_run(tmp_path):
    steps = [10, 20, 30, 20, 30, 40]  # resumed from step 10
    metrics = [{"step": s, "epoch": s / 10, "loss": 9 / s + i, "loss_bbox": 1 / s} for i, s in enumerate(steps)]
    metrics[0]["loss"] = float("nan")
    evaluation = [{"step": s, "epoch": s / 10, "AP": s / 100, "AP50": s / 50, "AP75": -1.0} for s in steps]
    write_lines(tmp_path / "metrics.jsonl", metrics[:3], tail='{"step": 40, "ep\n')
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in metrics[3:])
    write_lines(tmp_path / "evaluation.jsonl", evaluation, tail='{"step": 50, "epoch": 5, "AP": 0.')

    assert read_history(tmp_path / "metrics.jsonl")[1:] == metrics[3:]
    assert [entry["step"] for entry in read_history(tmp_path / "evaluation.jsonl")] == [10, 20, 30, 40]
    draw_plots(tmp_path)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["box_ap.png", "loss.png"]
    for name in ("box_ap.png", "loss.png"):
        pixels = np.asarray(Image.open(tmp_path / "plots" / name).convert("HSV"))
        assert (pixels[..., 1] > 128).mean() > 0.002, f"{name} has no coloured curve"


def test_what_has_no_numbers_is_not_drawn(tmp_path):
    draw_plots(tmp_path)
    (tmp_path / "evaluation.jsonl").touch()
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "learning_rate": 1e-4}])
    draw_plots(tmp_path)
    assert not (tmp_path / "plots").exists()
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 3.5}])
    draw_plots(tmp_path)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["loss.png"]


def test_drops_of_the_learning_rate_are_marked(tmp_path):
    """By a grey line at epoch 3 of 1 to 4, right of the middle."""

    def grey_columns() -> np.ndarray:
        draw_plots(tmp_path)
        picture = np.asarray(Image.open(tmp_path / "plots" / "box_ap.png").convert("RGB")).astype(int)
        grey = (np.ptp(picture, axis=2) < 8) & (abs(picture.mean(2) - 128) < 50)
        return np.flatnonzero(grey.mean(0) > 0.15) / picture.shape[1]

    write_lines(tmp_path / "evaluation.jsonl", [{"step": 10 * e, "epoch": float(e), "AP": e / 10} for e in range(1, 5)])
    rates = [{"step": s, "epoch": s / 10, "loss": 1.0, "learning_rate": 1e-3} for s in range(1, 41)]
    write_lines(tmp_path / "metrics.jsonl", rates)
    assert not len(grey_columns())
    write_lines(tmp_path / "metrics.jsonl", rates[:30] + [{**line, "learning_rate": 1e-4} for line in rates[30:]])
    assert len(grey_columns()) and grey_columns() == pytest.approx(0.66, abs=0.05)


def test_a_fault_in_drawing_stops_nothing(recipe, tmp_path, monkeypatch, caplog):
    """Neither the curves at each evaluation nor the picture at the end, which comes before figures and card."""

    def broken(*args, **kwargs):
        raise RuntimeError("no canvas")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    monkeypatch.setattr("dino_detr.training.description.draw_truth_and_detections", broken)
    train(prepare(parse_options([str(recipe), "--output_dir", str(tmp_path / "run")])))
    assert {"figures.json", "README.md", "model.safetensors"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert [line["step"] for line in read_history(tmp_path / "run" / "evaluation.jsonl")] == [2, 4]
    said = [record.message for record in caplog.records if "could not be drawn" in record.message]
    assert [message.split(" could")[0] for message in said] == ["The plots"] * 2 + ["plots/detections.png"]
