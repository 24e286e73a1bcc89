"""When an AP of about 0 is explained in a run, and with what the run knows."""

import numpy as np
import pytest
from transformers import TrainerState

from dino_detr.evaluation.detections import references
from dino_detr.evaluation.diagnosis import LearningRate
from dino_detr.evaluation.evaluate import Evaluation
from dino_detr.training import parse_options, prepare, train
from dino_detr.training.guards.zero_ap import explain_zero_ap


@pytest.fixture
def trainer(recipe, tmp_path):
    return prepare(parse_options([str(recipe), "--output_dir", str(tmp_path / "run")]))


def explain(trainer, state: TrainerState, ap50: float = 0.0, at_end: bool = True) -> str | None:
    """What is written of an evaluation that found one wrong box in each image."""
    wrong = {"scores": np.array([0.1]), "labels": np.array([0]), "boxes": np.array([[0.0, 0.0, 1.0, 1.0]])}
    detections = [{"image_id": image_id, **wrong} for image_id in trainer.eval_dataset["image_id"]]
    truth = references(trainer.eval_dataset, detections)
    path = trainer.folder / "diagnosis.txt"
    path.write_text("older")
    evaluation = Evaluation({"AP50": ap50}, trainer.eval_dataset, detections, truth)
    explain_zero_ap(evaluation, trainer.args, state, trainer.train_dataset, at_end)
    text = path.read_text()
    return None if text == "older" else text


def test_a_fault_does_not_stop_training(recipe, tmp_path, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("dino_detr.evaluation.evaluate.diagnose", broken)
    options = ["--max_steps", "1", "--eval_steps", "1", "--save_steps", "1", "--output_dir", str(tmp_path / "run")]
    figures = train(prepare(parse_options([str(recipe), *options])))
    assert figures["AP50"] < 0.01
    assert "diagnosis of it failed: ZeroDivisionError('on purpose')" in caplog.text
    assert (tmp_path / "run" / "model.safetensors").exists() and not (tmp_path / "run" / "diagnosis.txt").exists()


def test_a_line_of_the_log_is_not_compared_with_itself(trainer):
    one = explain(trainer, TrainerState(global_step=20, log_history=[{"loss": 20.0}]))
    assert "training loss        20 in the only line of the log" in one and "has not fallen" not in one
    two = explain(trainer, TrainerState(global_step=20, log_history=[{"loss": 20.0}, {"loss": 19.9}]))
    assert "20 in its first line of the log, 19.9 in its last" in two and "has not fallen either" in two


def test_warm_up_is_named_as_the_reason(trainer):
    log = [{"loss": 20.0, "learning_rate": 1e-6}, {"loss": 19.9, "learning_rate": 2.4e-6}]
    trainer.args.warmup_steps, trainer.args.learning_rate = 1000, 1e-4
    text = explain(trainer, TrainerState(global_step=20, log_history=log))
    assert "still in warm-up, at step 20 of 1000, and the learning rate at 2.4e-06 of 0.0001: train longer" in text
    assert "has not fallen" not in text
    assert LearningRate(1100, 1000, 1e-4, 1e-4).explain().startswith("Warm-up ended 100 steps ago")
    assert LearningRate(2000, 1000, 1e-4, 1e-4).explain() is None
    assert LearningRate(5, 0, None, 0.0).explain() == "The learning rate is 0: nothing is learned."


@pytest.mark.parametrize(
    "ap50, losses, at_end, explained",
    [
        (0.0, [20.0, 15.0], False, True),
        (-1.0, [20.0, 15.0], False, True),  # nothing to find
        (0.02, [20.0, 15.0], True, False),
        (0.0, [20.0, 17.0], False, False),  # too early to say
        (0.0, [20.0, 17.0], True, True),
        (0.0, [], False, False),
        (0.0, [], True, True),
    ],
)
def test_when_it_is_explained(trainer, ap50, losses, at_end, explained):
    state = TrainerState(global_step=40, log_history=[{"loss": loss} for loss in losses])
    text = explain(trainer, state, ap50, at_end)
    assert text.startswith("AP50 is 0.000 at step 40.") if explained else text is None
