"""Runs that are killed, and checkpoints that are damaged."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import ENVIRONMENT, ROOT, lines, run
from safetensors.torch import load_file

SCHEDULE = ["--max_steps", "12", "--eval_steps", "3", "--save_steps", "3", "--augmentation", "reference"]


@pytest.fixture(scope="module")
def unbroken(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run(sys.executable, "train.py", recipe, *SCHEDULE, "--output_dir", folder)
    return folder


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

    for name in ("model.safetensors", "checkpoint-12/model.safetensors"):
        assert_same(load_file(folder / name), load_file(unbroken / name), name)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with torch.serialization.safe_globals([*_numpy_globals()]):
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


def _numpy_globals():
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        return torch.serialization.get_safe_globals()


def test_a_damaged_checkpoint_is_named_and_passed_over(recipe, unbroken, tmp_path):
    from shutil import copytree

    folder = tmp_path / "run"
    copytree(unbroken, folder)
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
