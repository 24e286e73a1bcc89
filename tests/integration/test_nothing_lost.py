"""Runs that are killed, and checkpoints that are damaged."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.launching import ENVIRONMENT, ROOT, lines, run
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from dino_detr.training import parse_options
from dino_detr.training.checkpointing.preemption import Preempted
from dino_detr.training.ema import WeightAverage
from dino_detr.training.run import prepare

SCHEDULE = ["--max_steps", "12", "--eval_steps", "3", "--save_steps", "3", "--augmentation", "reference"]
SCHEDULE += ["--ema_decay", "0.9", "--dataloader_num_workers", "1"]


@pytest.fixture(scope="module")
def unbroken(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run(sys.executable, "train.py", recipe, *SCHEDULE, "--output_dir", folder)
    return folder


def test_average_follows_the_weights(unbroken):
    """From checkpoint to checkpoint, 3 steps apart, the average is between what it was and where the weights went."""
    evaluations = lines(unbroken / "evaluation.jsonl")
    assert [line["step"] for line in evaluations] == [3, 6, 9, 12]
    best = max(evaluations, key=lambda line: line["ema_AP"])  # the first of equals
    kept = load_file(unbroken / f"checkpoint-{best['step']}" / "ema" / "model.safetensors")
    assert_same(load_file(unbroken / "model.safetensors"), kept, "what the run leaves")
    raw = load_file(unbroken / "checkpoint-12" / "model.safetensors")
    average = load_file(unbroken / "checkpoint-12" / "ema" / "model.safetensors")
    assert any(not torch.equal(raw[name], average[name]) for name in raw)


def test_average_is_the_formula():
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    ema = WeightAverage(0.9)
    ema.start(model)
    for value in (2.0, 3.0):
        torch.nn.init.constant_(model.weight, value)
        ema.update()
    expected = torch.full((1, 2), 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3)
    with ema.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), torch.full((1, 2), 3.0))


def assert_same(actual, expected, where):
    """Nested containers and tensors, bit for bit."""
    assert type(actual) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), where
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            assert_same(actual[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), where
        for index, pair in enumerate(zip(actual, expected)):
            assert_same(*pair, f"{where}[{index}]")
    elif hasattr(expected, "tobytes"):
        assert actual.tobytes() == expected.tobytes(), where
    else:
        assert actual == expected, where


def assert_same_run(folder, unbroken):
    for name in ("model.safetensors", "checkpoint-12/model.safetensors", "checkpoint-12/ema/model.safetensors"):
        assert_same(load_file(folder / name), load_file(unbroken / name), name)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with safe_globals():
            states = [torch.load(run_ / "checkpoint-12" / name, weights_only=True) for run_ in (folder, unbroken)]
        assert_same(*states, name)
    ignored = {"seconds", "seconds_per_step", "data_wait_share", "peak_memory_mib"}
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        ours, theirs = (
            [{key: value for key, value in line.items() if key not in ignored} for line in lines(run_ / name)]
            for run_ in (folder, unbroken)
        )
        assert ours == theirs, name
    assert not list(folder.glob(".*"))  # no half of a checkpoint is left


def test_killed_runs_continue_bit_for_bit(recipe, unbroken, tmp_path):
    """Promise 8: SIGKILL three times, at random moments; the same command each time."""
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", recipe, *SCHEDULE, "--output_dir", folder]
    command = [str(part) for part in [*command, "--resume_from_checkpoint", "latest"]]
    moments = random.Random()
    seed = moments.randrange(2**32)
    moments.seed(seed)
    print("seed of the moments:", seed)  # shown if it fails
    metrics = folder / "metrics.jsonl"
    for kill_at in (2, 5, 9):
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= kill_at):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(*command)

    assert_same_run(folder, unbroken)


@pytest.mark.parametrize(
    "number, moment",
    [
        *itertools.product([signal.SIGTERM, signal.SIGUSR1], ["a step", "an evaluation", "the last evaluation"]),
        (signal.SIGINT, "a step"),
    ],
)
def test_stopped_runs_save_and_go_on(recipe, unbroken, tmp_path, number, moment):
    """
    A checkpoint, a status that says "again" or, after Ctrl-C, that a person wanted it, and the same run in the end:
    evaluations that were due included.
    """
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", recipe, *SCHEDULE, "--output_dir", folder]
    command = [str(part) for part in [*command, "--resume_from_checkpoint", "latest"]]
    metrics, seen = folder / "metrics.jsonl", {"a step": 4, "an evaluation": 3, "the last evaluation": 12}[moment]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= seen):
        time.sleep(0.005)
    os.killpg(process.pid, number)  # as schedulers do: data workers too
    _, output = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 75), output
    assert "Traceback" not in output
    steps = [int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*")]
    assert f"stopped by a signal at step {max(steps)}" in output
    assert not (folder / "model.safetensors").exists()
    run(*command)
    assert_same_run(folder, unbroken)


def test_data_workers_of_an_evaluation_may_die_when_it_is_broken_off(recipe, tmp_path):
    """torch tells of a worker's death wherever the run is then: in the checkpoint that the signal asks for."""
    options = [recipe, "--dataloader_num_workers", "1", "--per_device_eval_batch_size", "1", "--output_dir", tmp_path]
    trainer = prepare(parse_options([str(option) for option in options]))

    def signal_all(*_):
        trainer.preemption.asked = True
        (worker,) = multiprocessing.active_children()
        subprocess.Popen(["sh", "-c", f"sleep 1; kill {worker.pid}"], stderr=subprocess.DEVNULL)

    trainer.model.register_forward_pre_hook(signal_all)
    with pytest.raises(Preempted) as broken_off:  # kept, as where the checkpoint is saved
        trainer.evaluate()
    time.sleep(2)
    assert broken_off and not multiprocessing.active_children()


def test_a_run_cut_off_after_its_last_step_is_finished(recipe, unbroken, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    for name in ("model.safetensors", "config.json", "figures.json", "README.md"):
        (folder / name).unlink()
    command = [sys.executable, "train.py", recipe, *SCHEDULE, "--output_dir", folder]
    run(*command, "--resume_from_checkpoint", "latest")
    assert_same_run(folder, unbroken)
    assert (folder / "figures.json").exists()


def test_a_damaged_checkpoint_is_named_and_passed_over(recipe, unbroken, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    weights = folder / "checkpoint-12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    state = folder / "checkpoint-9" / "optimizer.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 255
    state.write_bytes(bytes(content))
    command = [sys.executable, "train.py", recipe, *SCHEDULE, "--output_dir", folder]
    output = run(*command, "--resume_from_checkpoint", "latest")
    assert "checkpoint-12 is damaged and passed over: model.safetensors" in output
    assert "checkpoint-9 is damaged and passed over: optimizer.pt" in output
    assert_same(load_file(folder / "model.safetensors"), load_file(unbroken / "model.safetensors"), "weights")
    weights.write_bytes(b"")
    output = run(*command, "--resume_from_checkpoint", folder / "checkpoint-12", expect=1)
    assert "checkpoint-12 cannot be resumed from: model.safetensors" in output and "Traceback" not in output
