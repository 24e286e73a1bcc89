"""Curves and pictures are written, whatever state a run left its files in."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_detr.cli import main
from dino_detr.evaluation import draw_detections, draw_plots
from dino_detr.evaluation.pictures import draw_samples, draw_truth_and_detections
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


class Samples(torch.utils.data.Dataset):
    """Five black samples of growing width with a box in the middle, the last without one."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        width = 400 + 140 * index
        box = {"bbox": [width / 4, 100.0, width / 2, 200.0], "category_id": 1, "area": 1.0, "iscrowd": 0}
        image = torch.zeros(3, 400, width, dtype=torch.uint8)
        return {"image": image, "annotation": {"image_id": index, "annotations": [box] if index < 4 else []}}


def test_samples_are_drawn_in_a_grid():
    """The widest, 960 pixels, is drawn at half its size; there, its box would be 120 to 360 x 50 to 150."""
    grid = np.asarray(draw_samples(Samples(), {1: "cat"}, 9)).astype(int)
    assert grid.shape == (800, 4 * 480, 3)
    assert (grid[:400, 400:480] == 255).all()  # beside the first, of 400 pixels
    first, last = grid[:400, :400], grid[400:, :480]
    edges = (first.max(2) > 0).nonzero()
    assert [edges[1].min(), edges[1].max(), edges[0].max()] == pytest.approx([100, 300, 300], abs=2)
    assert (last[:200] == 0).all() and (last[200:] == 255).all()
    third = grid[:400, 960:1440]  # 680 x 400 at 480 x 282, its box at 120 to 360 x 71 to 212
    columns = (third[150].max(1) > 0).nonzero()[0]
    assert [columns.min(), columns.max()] == pytest.approx([120, 360], abs=2)
    assert np.asarray(draw_samples(Samples(), {1: "cat"}, 2)).shape[1] == 2 * 480


def test_what_was_found_stands_beside_the_truth():
    """Captions above, the better half of the boxes below the threshold, a large image made smaller."""
    image, names = Image.new("RGB", (1280, 640)), {0: "cat", 1: "dog"}
    truth = {"labels": [0], "boxes": [[320.0, 160.0, 640.0, 480.0]]}
    found = {"scores": [0.3, 0.8], "labels": [1, 0], "boxes": [[0, 0, 100, 100], [320.0, 160.0, 960.0, 480.0]]}
    pair = np.asarray(draw_truth_and_detections(image, truth, found, names, 0.5)).astype(int)
    assert pair.shape == (24 + 320, 640 + 8 + 640, 3)
    row = pair[24 + 200]  # through both boxes, below the labels
    edges = [(half.max(1) > 0).nonzero()[0] for half in (row[:640], row[648:])]
    assert [side for half in edges for side in (half.min(), half.max())] == pytest.approx([160, 320, 160, 480], abs=2)
    nothing = np.asarray(draw_truth_and_detections(image, truth, found, names, 0.9)).astype(int)
    assert (nothing[24:, 648:] == 0).all() and (nothing[:24, 648:] != pair[:24, 648:]).any()
    none_at_all = {"scores": [], "labels": [], "boxes": []}
    draw_truth_and_detections(image, none_at_all, none_at_all, names, 0.5)


def test_check_data_shows_samples_of_a_recipe(data, tmp_path, capsys):
    """The recipe asks for bf16, which not every machine that shows data has."""
    path, recipe = tmp_path / "grid.png", Path(__file__).parent.parent.parent / "recipes" / "finetune.yaml"
    main(["check-data", str(data), "--show", "3", "--recipe", str(recipe), "--output", str(path)])
    assert "3 samples of train" in capsys.readouterr().out
    assert max(Image.open(path).size) <= 3 * 480
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=r"grid\.png exists; choose another --output"):
        main(["check-data", str(data), "--show", "5", "--output", str(path)])
    assert path.read_bytes() == before
