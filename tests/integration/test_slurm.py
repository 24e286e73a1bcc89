"""The sbatch files, with stand-ins for SLURM's own commands that run everything here."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.launching import ENVIRONMENT, RECIPE, ROOT, lines
from helpers.shards import write_tars
from helpers.tiny import tiny_backbone_config
from transformers import AutoBackbone

from dino_detr.data import load_detection_dataset

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


@pytest.fixture
def pretraining(data, tmp_path) -> list:
    """The recipe of Objects365 on shards, everything small."""
    for split in ("train", "val"):
        write_tars(load_detection_dataset(str(data), split), tmp_path / "shards", split, 3)
    AutoBackbone.from_config(tiny_backbone_config(hidden_size=32)).save_pretrained(tmp_path / "backbone")
    model_config = {name: value for name, value in RECIPE["model_config"].items() if name != "backbone_config"}
    small = {"dataset": tmp_path / "shards", "eval_split": "val[:2]", "backbone": tmp_path / "backbone"}
    small |= {"model_config": json.dumps(model_config), "num_queries": 20, "num_denoising": 8, "image_sizes": 64}
    small |= {"max_image_size": 128, "total_batch_size": 4, "max_steps": 8, "lr_decay_steps": 6, "warmup_steps": 2}
    small |= {"eval_steps": 4, "save_steps": 4, "logging_steps": 1, "use_cpu": "true", "bf16": "false"}
    small |= {"dataloader_num_workers": 1}
    return [
        "recipes/o365_pretrain_base.yaml",
        *(part for name, value in small.items() for part in (f"--{name}", value)),
    ]


@pytest.mark.slow
def test_shards_on_two_nodes(pretraining, slurm, tmp_path):
    """Each node has the shards in a cache of its own; a job that was stopped ends as one that was not, to the bit."""
    on_nodes = SRUN.replace("SLURM_LOCALID=$rank", f"SLURM_LOCALID=0 HF_DATASETS_CACHE={tmp_path}/node$rank")
    (tmp_path / "bin" / "srun").write_text(on_nodes)
    job = submit("train", *pretraining, "--output_dir", tmp_path / "straight", environment=slurm)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output

    arguments, metrics = [*pretraining, "--output_dir", tmp_path / "stopped"], tmp_path / "stopped" / "metrics.jsonl"
    job = submit("train", *arguments, environment=slurm)
    while job.poll() is None and not (metrics.exists() and len(lines(metrics)) >= 2):
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGTERM)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 75, output
    assert 2 <= len(lines(metrics)) < 8
    job = submit("train", *arguments, environment={**slurm, "SLURM_RESTART_COUNT": "1"})
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output

    losses = [[line["loss"] for line in lines(tmp_path / run / "metrics.jsonl")] for run in ("straight", "stopped")]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("straight", "stopped")]
    assert weights[0] == weights[1]
    for rank in range(2):
        assert list((tmp_path / f"node{rank}").glob("**/*-train.arrow"))
