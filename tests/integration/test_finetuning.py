"""The measurement of the recipe for one's own data: each of its changes is one, and it goes on where it stopped."""

import importlib
import json

import numpy as np
import pytest
import yaml
from helpers.detecting import save_detector
from helpers.launching import ROOT
from PIL import Image

from dino_detr.data.sources.digits import NUM_SCENES, render_scene
from dino_detr.training import parse_options


@pytest.fixture
def finetuning(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for split in NUM_SCENES:
        monkeypatch.setitem(NUM_SCENES, split, 5)
    return importlib.import_module("finetuning")


def test_each_change_is_one_of_the_recipe(finetuning, tmp_path):
    recipe = yaml.safe_load(finetuning.RECIPE.read_text()) | finetuning.SMALL | {"max_steps": 200, "dataset": "digits"}
    said = []
    for name, change in finetuning.CHANGES.items():
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe | change))
        options = parse_options([str(path), "--output_dir", str(tmp_path / "run")])
        said.append({key: str(value) for key, value in vars(options).items() if key not in ("given", "logging_dir")})
        assert (said[-1] == said[0]) == (name == "finetune"), name


def test_the_table_goes_on_where_it_stopped(finetuning, monkeypatch, tmp_path, capsys):
    changes = {"finetune": {}, "half the queries": {"num_queries": 8}}
    monkeypatch.setattr(finetuning, "CHANGES", changes)
    monkeypatch.setattr(finetuning, "SMALL", finetuning.SMALL | {"num_queries": 16, "warmup_steps": 1})
    checkpoint, results = save_detector(tmp_path / "detector"), tmp_path / "results.jsonl"
    words = ["finetuning.py", str(checkpoint), "negatives", "--images", "4", "--passes", "16", "--seeds", "1"]
    monkeypatch.setattr("sys.argv", [*words, "--folder", str(tmp_path / "runs"), "--results", str(results)])
    before = {"change": "finetune", "dataset": "negatives", "seed": 1, "AP": 0.5}
    results.write_text(json.dumps(before) + "\n")
    finetuning.main()
    first, second = map(json.loads, results.read_text().splitlines())
    assert first == before and second.keys() == before.keys() and second["change"] == "half the queries"
    row = f"| half the queries | {second['AP']:.3f} | {second['AP'] - 0.5:+.3f} to {second['AP'] - 0.5:+.3f} |"
    assert row in capsys.readouterr().out
    pixels, boxes, _ = render_scene("train", 0)
    negative = np.asarray(Image.open(tmp_path / "runs" / "negatives" / "train" / "1.png"))
    assert np.abs(negative.astype(int) - (255 - pixels)).mean() < 5  # but for JPEG's
    written = json.loads((tmp_path / "runs" / "negatives" / "annotations" / "instances_train.json").read_text())
    assert [box["bbox"] for box in written["annotations"] if box["image_id"] == 1] == boxes
