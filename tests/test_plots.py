"""Curves and pictures are written, whatever state a run left its files in."""

import json

import numpy as np
import torch
from PIL import Image

from dino_detr.evaluation import draw_detections, draw_plots
from dino_detr.evaluation.history import read_history


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


def test_boxes_are_drawn_where_they_are():
    image = Image.new("L", (600, 500), 128)
    detections = {
        "scores": torch.tensor([0.9, 0.4, 0.2]),
        "labels": torch.tensor([0, 1, 2]),
        "boxes": torch.tensor([[100.0, 200.0, 300.0, 400.0], [560.0, 2.0, 640.0, 90.0], [599.5, 0.0, 600.0, 9.0]]),
    }
    picture = draw_detections(image, detections, {0: "cat", 1: "a class with a name too long for the picture" * 3})
    assert picture.size == image.size and picture.mode == "RGB"
    assert picture.getpixel((200, 200)) == picture.getpixel((300, 300)) != (128, 128, 128)  # on two of the edges
    assert picture.getpixel((200, 300)) == picture.getpixel((450, 450)) == (128, 128, 128)  # inside, outside
    assert image.getpixel((200, 200)) == 128  # the original is left alone

    nothing = draw_detections(image, {"scores": [], "labels": [], "boxes": []}, {})
    assert (np.asarray(nothing) == 128).all()
