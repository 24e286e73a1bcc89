"""Uneven classes: what the options do in a run, and that a rare class is learned by them."""

import pytest
from helpers.launching import lines
from safetensors.torch import load_file

from dino_detr.training import parse_options, prepare, train


def test_weights_by_name_reach_the_loss(recipe, tmp_path):
    options = [str(recipe), "--output_dir", str(tmp_path / "run"), "--class_weights"]
    trainer = prepare(parse_options([*options, '{"digit 3": 2.5}']))
    assert trainer.model.config.class_weights == [1, 1, 1, 2.5, 1, 1, 1, 1, 1, 1]
    for weights, said in [
        ('{"three": 2}', "class_weights has 'three', which is none of the classes digit 0, digit 1"),
        ('{"digit 3": "much"}', "class_weights: 'digit 3' has 'much', which is no number above 0"),
    ]:
        with pytest.raises(ValueError, match=said):
            prepare(parse_options([*options, weights, "--overwrite"]))


def test_a_run_with_repeated_images_resumes_where_it_was(recipe, tmp_path):
    """In the middle of an epoch."""
    options = ["--repeat_factor", "1.0", "--load_best_model_at_end", "false", "--max_steps", "5", "--save_steps", "1"]
    options += ["--eval_strategy", "no", "--save_total_limit", "9"]

    def trained(name, *words):
        train(prepare(parse_options([str(recipe), *options, "--output_dir", str(tmp_path / name), *words])))
        return load_file(tmp_path / name / "model.safetensors"), lines(tmp_path / name / "metrics.jsonl")

    whole, metrics = trained("whole")
    assert metrics[0]["epoch"] < 4 / 9 - 0.05  # an epoch has more samples than the nine images
    for step in (1, 3):
        resumed, again = trained(str(step), "--resume_from_checkpoint", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert all(whole[name].equal(resumed[name]) for name in whole)
        assert [line["loss"] for line in again] == [line["loss"] for line in metrics[step:]]
