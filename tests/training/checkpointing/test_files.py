"""What a checkpoint must hold, what of it may be lost without harm, and which ones are deleted."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from transformers import TrainerCallback

from dino_detr.runs.names import FILES_JSON
from dino_detr.training import parse_options, prepare, train
from dino_detr.training.checkpointing.files import delete_oldest, find_checkpoint, find_damage
from dino_detr.training.checkpointing.output_dir import claim_output_dir, release_output_dir
from dino_detr.training.checkpointing.state import find_best

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
SHORT = ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
NEEDED = ["config.json", "ema/config.json", "ema/model.safetensors", "model.safetensors", "optimizer.pt"]
NEEDED += ["rng_state.pth", "scheduler.pt", "trainer_state.json"]


@pytest.fixture(scope="module")
def run_folder(recipe, tmp_path_factory) -> Path:
    """Two steps with an average, a checkpoint each, and a token."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    options = ["--max_steps", "2", "--save_steps", "1", "--ema_decay", "0.9", *SHORT]
    options = parse_options([str(recipe), *options, "--output_dir", str(folder)])
    options.hub_token = TOKEN
    train(prepare(options))
    return folder


@pytest.fixture
def run_copy(run_folder, tmp_path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def claim(recipe, folder: Path, *options) -> str | None:
    options = parse_options([str(recipe), "--ema_decay", "0.9", *SHORT, "--output_dir", str(folder), *options])
    try:
        return claim_output_dir(options)
    finally:
        release_output_dir(options)


@pytest.mark.parametrize("listed", [True, False], ids=["", "without the list, as of an older version"])
def test_what_is_missing_or_cut_is_damage(run_copy, listed):
    checkpoint = run_copy / "checkpoint-2"
    assert find_damage(checkpoint) is None
    if not listed:
        (checkpoint / FILES_JSON).unlink()
    for name in NEEDED:
        path = checkpoint / name
        content = path.read_bytes()
        path.unlink()
        assert name in find_damage(checkpoint)
        for cut in (b"", content[: len(content) // 2]):
            path.write_bytes(cut)
            assert name in find_damage(checkpoint)
        path.write_bytes(content)
    shutil.rmtree(checkpoint / "ema")
    assert (find_damage(checkpoint) is None) != listed
    assert find_checkpoint(run_copy).name == ("checkpoint-1" if listed else "checkpoint-2")


def test_damage_anywhere_in_an_archive_is_said_and_raises_nothing(run_copy):
    checkpoint = run_copy / "checkpoint-2"
    seed = random.randrange(2**32)
    print("seed:", seed)
    places = random.Random(seed)
    path = checkpoint / "scheduler.pt"
    content = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        for place in places.sample(range(len(content)), 4):
            damaged[place] ^= 1 << places.randrange(8)
        path.write_bytes(damaged)
        fault = find_damage(checkpoint)
        assert fault is None or fault.startswith("scheduler.pt: ")


def test_a_state_of_another_step_or_that_is_none_is_damage(run_copy):
    state = run_copy / "checkpoint-2" / "trainer_state.json"
    shutil.copy(run_copy / "checkpoint-1" / "trainer_state.json", state)
    assert find_damage(run_copy / "checkpoint-2") == "trainer_state.json: it is of step 1"
    for content in ("null", "[]", "{}"):
        state.write_text(content)
        assert find_damage(run_copy / "checkpoint-2").startswith("trainer_state.json: it is")


def test_missing_shards_are_damage(run_copy):
    checkpoint = run_copy / "checkpoint-2"
    (checkpoint / FILES_JSON).unlink()
    weights = checkpoint / "model.safetensors"
    weights.rename(checkpoint / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find_damage(checkpoint) == "it has no model-00002-of-00002.safetensors"


def test_a_checkpoint_without_the_optimizers_state_is_not_resumed(recipe, run_copy, caplog):
    """One that lost it is passed over; of `save_only_model`, which never had it, the line says what can be done."""
    (run_copy / "checkpoint-2" / "optimizer.pt").unlink()
    assert claim(recipe, run_copy, "--resume_from_checkpoint", "latest") == str(run_copy / "checkpoint-1")
    assert "checkpoint-2 is damaged and passed over: it has no optimizer.pt" in caplog.text
    with pytest.raises(ValueError, match=r"checkpoint-2 cannot be resumed from: it has no optimizer\.pt"):
        claim(recipe, run_copy, "--resume_from_checkpoint", str(run_copy / "checkpoint-2"))
    for checkpoint in run_copy.glob("checkpoint-*"):
        for name in (FILES_JSON, "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (checkpoint / name).unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .* resumed from: it holds weights only.*--model"):
        claim(recipe, run_copy, "--resume_from_checkpoint", "latest")


def test_what_cannot_go_on_bit_for_bit_is_said(recipe, run_copy, caplog):
    checkpoint = run_copy / "checkpoint-2"
    assert claim(recipe, run_copy, "--resume_from_checkpoint", "latest") == str(checkpoint)
    assert not caplog.records
    (checkpoint / FILES_JSON).unlink()
    for process in (0, 1):
        shutil.copy(checkpoint / "rng_state.pth", checkpoint / f"rng_state_{process}.pth")
    (checkpoint / "rng_state.pth").unlink()
    shutil.rmtree(checkpoint / "ema")
    claim(recipe, run_copy, "--resume_from_checkpoint", "latest")
    assert "saved by 2 and goes on in 1 processes, so random numbers start anew" in caplog.text
    assert "it has no average of the weights" in caplog.text


def test_going_on_from_an_earlier_checkpoint_sets_the_later_ones_aside(recipe, run_copy):
    """Else "latest" would go on with what the run was to be made again from."""
    claim(recipe, run_copy, "--resume_from_checkpoint", str(run_copy / "checkpoint-1"))
    assert (run_copy / "checkpoint-2.old-1" / "optimizer.pt").exists()
    assert claim(recipe, run_copy, "--resume_from_checkpoint", "latest") == str(run_copy / "checkpoint-1")


def test_a_checkpoint_of_another_run_is_not_gone_on_with_in_this_ones_folder(recipe, run_folder, run_copy):
    (run_copy / "config.json").unlink()
    with pytest.raises(FileExistsError, match="holds a run or a checkpoint already"):
        claim(recipe, run_copy, "--resume_from_checkpoint", str(run_folder / "checkpoint-1"))


def test_checkpoints_are_deleted_by_step_not_by_time(recipe, tmp_path):
    """A clock that was ahead when the first was written; the user's own copy is none of ours."""

    class Ahead(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            os.utime(folder / f"checkpoint-{state.global_step}", (2**32 - 10**6 * state.global_step,) * 2)

    folder = tmp_path / "run"
    options = ["--max_steps", "4", "--save_steps", "1", "--save_total_limit", "2", *SHORT]
    trainer = prepare(parse_options([str(recipe), *options, "--output_dir", str(folder)]))
    (folder / "checkpoint-0-mine").mkdir()
    trainer.add_callback(Ahead)
    train(trainer)
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4", "checkpoint-0-mine"}


def test_the_best_and_the_newest_are_never_deleted(tmp_path):
    for step in (2, 9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for no_limit in (None, 0, -1):
        delete_oldest(tmp_path, no_limit, 100, None)
    assert len(list(tmp_path.iterdir())) == 4
    delete_oldest(tmp_path, 1, 10, str(tmp_path / "checkpoint-2"))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-10", "checkpoint-100"}
    delete_oldest(tmp_path, 2, 100, None)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-100"}


def test_no_file_of_a_run_holds_the_token(recipe, run_folder):
    files = [path for path in run_folder.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    options = parse_options([str(recipe), "--push_to_hub", "--hub_token", TOKEN])
    assert options.hub_token == TOKEN
    assert TOKEN not in f"{options} {options!r} {options.to_json_string()} {options.recipe}"


@pytest.mark.parametrize("name", ["AP", "AP50", "eval_APs", "ema_AR100", "eval_ema_AP75"])
def test_where_averages_are_left_they_choose_the_best(recipe, tmp_path, name):
    schedule = ["--eval_steps", "2", "--save_steps", "2", "--early_stopping_patience", "3"]
    options = [*schedule, "--metric_for_best_model", name, "--output_dir", str(tmp_path / "run")]
    trainer = prepare(parse_options([str(recipe), "--ema_decay", "0.9", *options]))
    figure = name.removeprefix("eval_").removeprefix("ema_")
    for raw, average in ((0.9, 0.2), (0.1, 0.3), (0.95, 0.25)):
        trainer.state.global_step += 1
        trainer._determine_best_metric({f"eval_{figure}": raw, f"eval_ema_{figure}": average}, trial=None)
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.3, 2)
    trainer = prepare(parse_options([str(recipe), "--metric_for_best_model", figure, *options[:6], *options[8:]]))
    assert trainer.args.metric_for_best_model == figure


def test_the_best_checkpoint_is_found_where_a_run_was_moved_to_or_looked_for_anew(recipe, run_copy, caplog):
    options = ["--ema_decay", "0.9", "--resume_from_checkpoint", "latest", "--output_dir", str(run_copy)]
    trainer = prepare(parse_options([str(recipe), *options]))
    state = trainer.state
    state.best_global_step, state.best_metric, state.best_model_checkpoint = 1, 0.5, "/before/checkpoint-1"
    find_best(state, run_copy)
    assert state.best_model_checkpoint == str(run_copy / "checkpoint-1")
    shutil.rmtree(run_copy / "checkpoint-1")
    find_best(state, run_copy)
    assert state.best_metric is state.best_global_step is state.best_model_checkpoint is None
    assert "checkpoint-1, the best checkpoint so far, is not there any more" in caplog.text
