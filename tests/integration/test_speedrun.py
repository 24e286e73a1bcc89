"""The races run: the one on digits measures, the one on COCO is a command that can be launched."""

import importlib
import os
import subprocess

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from helpers.launching import ENVIRONMENT, ROOT

from dino_detr.data.sources.digits import NUM_SCENES
from dino_detr.training import parse_options


@pytest.fixture
def digits(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "speedrun"))
    for split, count in (("train", 8), ("val", 5)):
        monkeypatch.setitem(NUM_SCENES, split, count)
    return importlib.import_module("digits")


def test_the_race_on_digits_measures(digits, monkeypatch, tmp_path):
    small = yaml.safe_load(digits.RECIPE.read_text()) | {"total_batch_size": 2, "num_queries": 9, "image_sizes": [64]}
    monkeypatch.setattr(digits, "RECIPE", tmp_path / "recipe.yaml")
    digits.RECIPE.write_text(yaml.safe_dump(small | {"max_image_size": 96, "warmup_steps": 1}))
    runs = [digits.run_once(3, seed, tmp_path / str(seed), eval_steps=2) for seed in (1, 2)]
    for run in runs:
        assert run["seconds"] > 0 and 0 <= run["AP"] <= run["AP50"] and list(run["AP_by_step"]) == [2, 3]
    losses = [(tmp_path / str(seed) / "metrics.jsonl").read_text().splitlines()[0] for seed in (1, 2)]
    assert losses[0] != losses[1]


def test_the_race_on_coco_can_be_launched(tmp_path):
    (tmp_path / "accelerate").write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    (tmp_path / "accelerate").chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "benchmarks/speedrun/coco_h100.sh", "4", "--dataset", "elsewhere"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    verb, *words = done.stdout.splitlines()
    launch = launch_command_parser().parse_args(words)
    options = parse_options(launch.training_script_args)
    assert verb == "launch" and launch.num_processes == 4 and launch.training_script == "train.py"
    assert (options.max_steps, options.lr_decay_steps, options.dataset) == (58000, [55000], "elsewhere")
