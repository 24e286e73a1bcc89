"""The sbatch files, with stand-ins for SLURM's own commands that run everything here."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.launching import ENVIRONMENT, ROOT, lines

SCRIPTS = sorted((ROOT / "scripts" / "slurm").iterdir())

# srun: the tasks of one node, whose statuses' highest is its own
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
pids=()
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
    pids+=($!)
done
trap 'kill -TERM "${pids[@]}"' TERM
highest=0
for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
    wait "$pid"
    status=$?
    ((status > highest)) && highest=$status
done
exit $highest
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$SCONTROL_LOG"; fi
"""


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """An environment in which a job of two tasks runs."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(content)
        (commands / name).chmod(0o755)
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), ENVIRONMENT["PATH"]])
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost"}
    return {**ENVIRONMENT, **job, "PATH": path, "SCONTROL_LOG": str(tmp_path / "scontrol.log")}


def submit(script: str, *arguments, environment: dict[str, str]) -> subprocess.Popen:
    command = ["bash", f"scripts/slurm/{script}.sbatch", *[str(argument) for argument in arguments]]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(path):
    done = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", "-x", "-s", "bash", path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_signalled_job_saves_and_queues_itself_again(recipe, slurm, tmp_path):
    folder, log = tmp_path / "run", Path(slurm["SCONTROL_LOG"])
    arguments = [recipe, "--output_dir", folder, "--max_steps", "8", "--eval_steps", "4", "--save_steps", "4"]
    job = submit("train", *arguments, environment=slurm)
    metrics = folder / "metrics.jsonl"
    while job.poll() is None and not (metrics.exists() and len(lines(metrics)) >= 2):
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGTERM)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 75, output
    assert log.read_text().split() == ["requeue", slurm["SLURM_JOB_ID"]]
    assert list(folder.glob("checkpoint-*"))

    job = submit("train", *arguments, environment={**slurm, "SLURM_RESTART_COUNT": "1"})
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output
    assert [line["step"] for line in lines(metrics)] == list(range(1, 9))
    assert (folder / "model.safetensors").exists() and len(log.read_text().splitlines()) == 1
    assert '"processes": 2' in (folder / "environment.json").read_text()

    job = submit("train", *arguments, environment=slurm)  # submitted anew, it would begin anew
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 1 and "holds a run" in output


def test_try_and_resume(slurm, tmp_path):
    slurm = {**slurm, "SLURM_NTASKS": "1"}
    job = submit("try", "--use_cpu", "--output_dir", tmp_path / "try", "--max_steps", "10", environment=slurm)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output
    recipe = ["recipes/try.yaml", "--use_cpu", "--output_dir", tmp_path / "try"]
    job = submit("resume", *recipe, environment=slurm)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output
    assert [line["step"] for line in lines(tmp_path / "try" / "metrics.jsonl")] == [5, 10, 15, 20]
