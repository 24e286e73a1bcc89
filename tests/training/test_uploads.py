"""Promise 14: pushes while training. The Hub is `fake_hub.py`."""

import re
import threading

import pytest
import torch
import yaml
from helpers.fake_hub import REPOSITORY, pushed_files
from huggingface_hub import ModelCard
from safetensors.torch import load

from dino_detr.evaluation.evaluate import Evaluation
from dino_detr.runs.names import FIGURES
from dino_detr.training import DetectionTrainer, parse_options, prepare, train, uploads


@pytest.fixture
def scores(monkeypatch):
    """The AP of each evaluation to come, instead of a measured one."""
    coming = []

    def score(self, rows=None):
        ap = coming.pop(0) if len(coming) > 1 else coming[0]
        figures = dict.fromkeys(FIGURES, ap) | {"per_class": {"digit 0": {"AP": ap, "AP50": ap}}}
        return Evaluation(figures, self.eval_dataset, [], [])

    monkeypatch.setattr(DetectionTrainer, "score", score)
    return coming


PUSH = ["--push_to_hub", "--hub_model_id", REPOSITORY, "--max_steps", "8", "--save_total_limit", "2"]


def run_with(recipe, folder, *options) -> None:
    train(prepare(parse_options([str(recipe), "--output_dir", str(folder), *PUSH, *options])))


@pytest.mark.parametrize("averaged", [False, True])
def test_each_improvement_is_pushed(recipe, hub, scores, tmp_path, averaged):
    """The best weights, of which there is a checkpoint no more by then, with their figures; then the finished run."""
    scores += [0.1, 0.3, 0.4, 0.2, 0.4]
    more = ["--hub_always_push"]
    if averaged:
        more += ["--ema_decay", "0.5"]
        scores[:] = [0.9, 0.1, 0.8, 0.3, 0.7, 0.4, 0.6, 0.2, 0.4]  # raw, average, ...
    folder = tmp_path / "run"
    kept, at_the_end = {}, threading.Event()
    original, push, finish = uploads.Uploads.offer, uploads.push_run, uploads.Uploads.finish

    def offer(self, state):  # what is in each checkpoint when it is new
        newest = folder / f"checkpoint-{state.global_step}" / ("ema" if averaged else "")
        kept[state.global_step] = (newest / "model.safetensors").read_bytes()
        original(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads.Uploads, "offer", offer)
        # so slow a network that older checkpoints are gone when it comes to them
        patch.setattr(uploads, "push_run", lambda *a, **k: at_the_end.wait(60) and push(*a, **k))
        patch.setattr(uploads.Uploads, "finish", lambda self: (at_the_end.set(), finish(self)))
        run_with(recipe, folder, *more)
    assert not (folder / "checkpoint-2").exists()
    commits = hub.repositories[REPOSITORY].commits[1:]
    steps = [int(re.match(r"Weights of step (\d+), AP", commit.message)[1]) for commit in commits]
    assert steps == [2, 4, 6, 6]
    for commit, step, ap in zip(commits, steps, (0.1, 0.3, 0.4, 0.4)):
        theirs, ours = load(commit.files["model.safetensors"]), load(kept[step])
        assert all(torch.equal(theirs[name], ours[name]) for name in ours | theirs)
        card = ModelCard(commit.files["README.md"].decode())
        assert card.data.eval_results[0].metric_value == ap and REPOSITORY in card.text
        assert not [name for name in commit.files if name.endswith((".pt", ".bin", ".pth", "state.json"))]
    assert "digit 0 | 0.400" in pushed_files(hub)["README.md"].decode()
    assert not (folder / ".push").exists() and not list(folder.glob("*.bin"))
    recipe_there = yaml.safe_load(pushed_files(hub)["recipe.yaml"])
    assert recipe_there["hub_model_id"] == REPOSITORY and "hub_token" not in recipe_there


@pytest.mark.parametrize("without", [{4}, {4, 6, 8}])
def test_training_outlives_the_hub(recipe, hub, scores, tmp_path, caplog, without):
    """
    The network goes after the first push: said once, the run ends as usual, and the weights that were due are pushed
    when it is back, with the next checkpoint or at the end.
    """
    scores += [0.1, 0.4, 0.2, 0.3, 0.4]
    finish, original = uploads.Uploads.finish, uploads.Uploads.offer

    def offer(self, state):
        self._queue.join()
        hub.down = state.global_step in without
        original(self, state)

    def finish_online(self):
        self._queue.join()
        hub.down = False
        finish(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads.Uploads, "offer", offer)
        patch.setattr(uploads.Uploads, "finish", finish_online)
        run_with(recipe, tmp_path / "run", "--hub_private_repo", "true")
    assert hub.repositories[REPOSITORY].private
    messages = [commit.message for commit in hub.repositories[REPOSITORY].commits[1:]]
    late = ["Weights of step 4, AP 0.400"] * (2 if without == {4} else 1)  # the last with all of the run's record
    assert messages == ["Weights of step 2, AP 0.100", *late]
    assert caplog.text.count("Training goes on") == 1
    assert pushed_files(hub)["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()


def test_training_without_permission_ends_as_usual(recipe, hub, tmp_path, caplog):
    folder = tmp_path / "run"
    run_with(recipe, folder, "--hub_model_id", "others/detector", "--hub_strategy", "end", "--max_steps", "2")
    assert (folder / "model.safetensors").exists() and not hub.repositories
    assert caplog.text.count("Training goes on") == 1
    assert f"`dino-detr push {folder} others/detector` uploads it" in caplog.text


@pytest.mark.parametrize(
    "options, said",
    [
        (["--hub_model_id", "a/b"], "hub_model_id has no effect here: see push_to_hub"),
        (["--hub_private_repo", "true"], "hub_private_repo has no effect here"),
        (["--push_to_hub", "--hub_strategy", "end", "--hub_always_push"], "hub_always_push has no effect here"),
        (["--push_to_hub", "--hub_strategy", "checkpoint"], "would upload the state of training"),
        (["--push_to_hub", "--hub_revision", "x"], "hub_revision is an option of transformers that has no effect"),
    ],
)
def test_options_without_effect_are_errors(recipe, options, said):
    with pytest.raises(ValueError, match=said):
        parse_options([str(recipe), *options])
