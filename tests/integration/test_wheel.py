"""The wheel is enough: what the README does works from an empty folder, without the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.launching import ENVIRONMENT, ROOT
from helpers.scenes import write_scenes

# As the shell would type them, one after the other in one process: each import of torch takes seconds.
NEWCOMER = """
import contextlib, io, os, sys
from pathlib import Path

import dino_detr
from dino_detr.cli import main

assert Path(dino_detr.__file__).is_relative_to(sys.argv[1]), dino_detr.__file__
small = ["--max_steps", "2", "--eval_steps", "2", "--save_steps", "2", "--use_cpu", "true"]

def run(*words):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(list(words))
    return printed.getvalue()

assert "finetune" in run("recipes") and "coco_12ep_base" in run("recipes")
Path("mine.yaml").write_text(run("recipes", "try"), encoding="utf-8")
said = run("train", "try", "--dataset", "photos", *small)
assert "runs/try" in said and "dino-detr predict runs/try" in said, said
run("train", "mine.yaml", "--dataset", "photos", "--learning_rate", "0.002", *small)
run("predict", "runs/try", "photos/val", "--output", "found")
run("evaluate", "runs/try", "--dataset", "photos", "--report", "report")
run("evaluate", "found/results.json", "--dataset", "photos/annotations/instances_val.json")
run("compare", "runs/try", "runs/mine")
run("card", "runs/try")
run("check-data", "photos")
for path in ("runs/try/model.safetensors", "runs/try/README.md", "report/report.html", "comparison.png"):
    assert Path(path).is_file(), path
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds the wheel's content and nothing else of the repository."""
    work = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "dino_detr_command.py"):
        shutil.copy(ROOT / name, work / name)
    shutil.copytree(ROOT / "dino_detr", work / "dino_detr", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work, work], check=True)
    (wheel,) = work.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", work / "site", wheel], check=True)
    return work / "site"


def test_the_readmes_steps_need_the_wheel_alone(installed, tmp_path):
    write_scenes(tmp_path / "photos", {"train": 6, "val": 4})
    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", NEWCOMER, str(installed)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_command_says_its_version(installed):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed)}
    script = installed / "bin" / "dino-detr"
    result = subprocess.run([sys.executable, script, "--version"], env=environment, capture_output=True, text=True)
    assert result.stdout.split() == ["dino-detr", _version()] and os.access(script, os.X_OK)


def _version() -> str:
    from dino_detr import __version__

    return __version__
