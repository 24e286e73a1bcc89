"""An evaluation computes in the precision in which the run recorded its figures."""

import json

import pytest
import torch

from dino_detr import cli
from dino_detr.evaluation.precision import autocast_as_trained, evaluation_precision
from dino_detr.training import parse_options, prepare, train


def test_the_runs_recipe_says_it(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint-5" / "ema").mkdir(parents=True)
    for folder in (run, run / "checkpoint-5", run / "checkpoint-5" / "ema"):
        assert evaluation_precision(folder) == ("float32", None)
    for said, expected in [("bf16: true", "bf16"), ("fp16: true", "fp16"), ("bf16: false", "float32"), ("", "float32")]:
        (run / "recipe.yaml").write_text(said)
        for folder in (run, run / "checkpoint-5", run / "checkpoint-5" / "ema"):
            precision, recipe = evaluation_precision(folder)
            assert precision == expected and recipe.samefile(run / "recipe.yaml")
    (run / "other").mkdir()
    assert evaluation_precision(run / "other") == ("float32", None)
    (run / "recipe.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"recipe\.yaml cannot be read: "):
        evaluation_precision(run)


def test_what_a_cpu_does_not_have_is_said(tmp_path):
    (tmp_path / "recipe.yaml").write_text("fp16: true")
    context, said = autocast_as_trained(tmp_path, torch.device("cpu"))
    with context:
        assert not torch.is_autocast_enabled("cpu")
    assert said.startswith("Computing in float32: ") and said.endswith("says fp16, which this device does not have.")


def test_evaluate_gives_the_runs_own_figures(recipe, tmp_path, capsys):
    for precision in ("bf16", "float32"):
        folder = tmp_path / precision
        words = [str(recipe), "--bf16", str(precision == "bf16").lower(), "--output_dir", str(folder)]
        train(prepare(parse_options([*words, "--max_steps", "2", "--learning_rate", "3e-3"])))
        capsys.readouterr()
        figures = str(tmp_path / f"{precision}.json")
        cli.main(["evaluate", str(folder), "--dataset", str(recipe.parent), "--output", figures])
        told = capsys.readouterr().err
        assert ("Computing in bf16, as " in told) == (precision == "bf16")
        recorded = json.loads((folder / "figures.json").read_text())
        again = json.loads((tmp_path / f"{precision}.json").read_text())
        assert again == {name: recorded[name] for name in again}


def test_a_repository_without_a_recipe_is_float32(hub):
    assert evaluation_precision("someone/detector") == ("float32", None)
    assert evaluation_precision("nobody/nothing") == ("float32", None)
