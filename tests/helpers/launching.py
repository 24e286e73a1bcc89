"""Training runs as a user starts them: in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from helpers.tiny import tiny_backbone_config

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}

RECIPE = {
    "train_split": "train",
    "eval_split": "val",
    "model_config": {
        "d_model": 64,
        "pyramid_channels": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "backbone_config": {
            "model_type": "dinov2",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
    },
    "num_queries": 20,
    "num_denoising": 8,
    "freeze_backbone": False,
    "image_sizes": [64, 80],
    "max_image_size": 128,
    "total_batch_size": 4,
    "max_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 1,
    "use_cpu": True,
}

TWO_PROCESSES = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
TWO_PROCESSES += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def run(*command, expect=0, timeout=None, cwd=ROOT) -> str:
    """What a command writes; it must exit with `expect`, and in time (seconds)."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def change(path: Path, **values) -> None:
    content = yaml.safe_load(path.read_text()) | values  # JSON is YAML
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which the files of a folder can be fetched, until the block ends."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().split(' port ')[1].split()[0]}"
    finally:
        server.kill()


def with_backbone(recipe: Path, folder: Path, kind: str, **arguments) -> Path:
    """Write a recipe of a backbone of another kind, and return its path."""
    values = yaml.safe_load(recipe.read_text())
    values["model_config"]["backbone_config"] = tiny_backbone_config(kind, **arguments).to_dict()
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
