"""Ctrl-C and a scheduler's signals end a run or any verb in a line, at every moment."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.launching import ENVIRONMENT, ROOT, TWO_PROCESSES, lines, run

from dino_detr.cli import main
from dino_detr.data import check
from dino_detr.runs.names import LOCK
from dino_detr.training.checkpointing.preemption import Preemption

SLOW_CHECKPOINTS = """
import sys, time
from dino_detr.cli import main
from dino_detr.training import DetectionTrainer
DetectionTrainer._save_checkpoint = lambda *_, **__: time.sleep(600)
main(["train", *sys.argv[1:]])
"""


def start(*command) -> subprocess.Popen:
    """In a group of its own, as a terminal starts it."""
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, env=ENVIRONMENT, start_new_session=True, **streams
    )


def wait_for(process: subprocess.Popen, path, number_of_lines: int) -> None:
    while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= number_of_lines):
        time.sleep(0.005)


def test_persistent_data_workers_do_not_keep_a_run_from_ending(recipe, tmp_path):
    """multiprocessing ends them by the SIGTERM that they outlive while the run goes on."""
    options = ["--dataloader_num_workers", "2", "--dataloader_persistent_workers", "--output_dir", tmp_path / "run"]
    run(sys.executable, "train.py", recipe, *options, timeout=200)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_children_live_on_at_a_signal_while_it_is_heeded_and_no_longer(tmp_path):
    """Workers of an evaluation, say, which are forked with the run's own handlers."""
    preemption, context = Preemption(str(tmp_path)), multiprocessing.get_context("fork")
    with preemption.listening():
        children = [context.Process(target=time.sleep, args=(60,), daemon=True) for _ in range(2)]
        for child in children:
            child.start()
        time.sleep(0.2)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(children[0].pid, number)
            time.sleep(0.2)
        assert children[0].is_alive() and not preemption.asked
    for child in children:
        child.terminate()
        child.join(20)
        assert child.exitcode == -signal.SIGTERM


def test_a_second_ctrl_c_ends_a_run_at_once(recipe, tmp_path):
    folder = tmp_path / "run"
    options = ["--dataloader_num_workers", "1", "--max_steps", "500", "--eval_steps", "100", "--save_steps", "100"]
    process = start(sys.executable, "-c", SLOW_CHECKPOINTS, recipe, *options, "--output_dir", folder)
    wait_for(process, folder / "metrics.jsonl", 2)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)  # `timeout -s INT` sends it twice: that is one
    time.sleep(1)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, output = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in output, output
    assert "Ctrl-C again ends at once" in output and "stopped at once by a second Ctrl-C" in output
    assert not (folder / LOCK).exists()


@pytest.mark.slow
def test_ctrl_c_reaches_both_processes_of_a_run(recipe, tmp_path):
    """accelerate's launcher passes it on; the checkpoint is whole, and the run goes on from it."""
    folder = tmp_path / "run"
    options = ["--max_steps", "8", "--eval_steps", "8", "--save_steps", "8", "--dataloader_num_workers", "1"]
    command = [sys.executable, *TWO_PROCESSES, "train.py", recipe, *options, "--output_dir", folder]
    process = start(*command)
    wait_for(process, folder / "metrics.jsonl", 2)
    os.killpg(process.pid, signal.SIGINT)
    _, output = process.communicate(timeout=120)
    assert process.returncode != 0 and "trainer.py" not in output, output  # the launcher has a traceback of its own
    (checkpoint,) = folder.glob("checkpoint-*")
    assert f"stopped by a signal at step {checkpoint.name.removeprefix('checkpoint-')}" in output
    run(*command, "--resume_from_checkpoint", "latest")
    assert [line["step"] for line in lines(folder / "metrics.jsonl")] == list(range(1, 9))


def test_ctrl_c_ends_any_verb_in_a_line(monkeypatch, capfd, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "check_split", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["check-data", str(tmp_path), "--split", "val"])
    assert ended.value.code == 130
    assert capfd.readouterr().err.strip() == "dino-detr: stopped by Ctrl-C"
