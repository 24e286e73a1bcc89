"""The overfit check: a few images learned by heart."""

import sys

import pytest
from helpers.launching import lines, run
from helpers.scenes import write_scenes

from dino_detr.training import parse_options, prepare, train


def test_trains_and_evaluates_on_the_first_images(recipe, tmp_path):
    arguments = [str(recipe), "--output_dir", str(tmp_path / "run")]
    options = parse_options([*arguments, "--overfit_images", "3"])
    assert (options.augmentation, options.recipe["image_sizes"], options.recipe["overfit_images"]) == ("none", [80], 3)
    with pytest.raises(ValueError, match="zoom_out has no effect here: see overfit_images"):
        parse_options([*arguments, "--overfit_images", "3", "--zoom_out", "true"])
    with pytest.raises(ValueError, match="augmentation has no effect here: see overfit_images"):
        parse_options([*arguments, "--overfit_images", "3", "--augmentation", "reference"])
    flipping = tmp_path / "flipping.yaml"
    flipping.write_text(recipe.read_text() + "horizontal_flip: 1.0\n")
    assert parse_options([str(flipping), *arguments[1:], "--overfit_images", "3"]).horizontal_flip is None
    trainer = prepare(options)
    assert trainer.train_dataset.rows["image_id"] == trainer.eval_dataset["image_id"] == [100, 101, 102]
    sample = trainer.train_dataset[0]
    trainer.train_dataset.set_epoch(1)
    assert (trainer.train_dataset[0]["image"] == sample["image"]).all()
    with pytest.raises(ValueError, match=r"overfit_images=10, but train of .* has 9 images with boxes"):
        prepare(parse_options([*arguments, "--overfit_images", "10"]))
    with pytest.raises(ValueError, match="overfit_images=0 must be at least 1"):
        parse_options([*arguments, "--overfit_images", "0"])


def test_says_that_it_failed(recipe, tmp_path, capsys):
    options = ["--overfit_images", "4", "--max_steps", "1", "--eval_steps", "1", "--save_steps", "1"]
    train(prepare(parse_options([str(recipe), *options, "--output_dir", str(tmp_path / "run")])))
    assert "Overfit check failed: AP50 is 0.00" in capsys.readouterr().out
    assert "train (4 images that it was trained on)" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("one_class", [True, False])
def test_sixteen_scenes_are_learned_by_heart(one_class, tmp_path):
    """Promise 3: a detector from random weights, one class or ten."""
    write_scenes(tmp_path / "data", {"train": 20}, one_class)
    options = ["--dataset", tmp_path / "data", "--overfit_images", "16", "--output_dir", tmp_path / "run"]
    schedule = ["--max_steps", "400", "--eval_steps", "400", "--save_steps", "400", "--total_batch_size", "4"]
    output = run(sys.executable, "train.py", "recipes/quickstart.yaml", *options, *schedule)
    assert lines(tmp_path / "run" / "evaluation.jsonl")[-1]["AP50"] >= 0.9
    assert "Overfit check passed" in output


@pytest.mark.slow
def test_sixteen_photographs_are_learned_by_heart(bccd, tmp_path):
    """Promise 3 on real images, of BCCD."""
    options = ["--dataset", bccd, "--overfit_images", "16", "--output_dir", tmp_path / "run"]
    schedule = ["--max_steps", "1000", "--eval_steps", "1000", "--save_steps", "1000", "--total_batch_size", "4"]
    output = run(sys.executable, "train.py", "recipes/bccd.yaml", *options, *schedule)
    assert lines(tmp_path / "run" / "evaluation.jsonl")[-1]["AP50"] >= 0.9
    assert "Overfit check passed" in output
