"""`benchmarks/gpu.sh` runs through without a GPU, and its verdict can be no."""

import importlib
import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from helpers.launching import ENVIRONMENT, ROOT

PARTS = ["kernels", "profile", "recipe", "benchmark", "sampling", "inference", "step"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "results"
    command = ["bash", "benchmarks/gpu.sh", "--cpu", "--output", str(folder)]
    environment = {**ENVIRONMENT, "PYTHON": sys.executable}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder, finished.stdout


def test_every_part_measures_something(done):
    folder, printed = done
    results = json.loads((folder / "gpu.json").read_text())["results"]
    assert list(results) == PARTS
    assert all(result["fault"] is None and result["lines"] for result in results.values())
    assert "yes kernels: the definition's values and gradients" in printed and "NO" not in printed
    table = (folder / "gpu.md").read_text()
    assert all(f"### {part}" in table for part in PARTS) and f"torch {version('torch')}" in table


def test_results_are_not_overwritten(done):
    command = [sys.executable, "benchmarks/gpu.py", "--cpu", "--output", str(done[0])]
    again = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 1 and "is there already: move it away" in again.stderr


def test_the_verdict_sees_a_wrong_kernel_a_slow_step_and_waits(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = importlib.import_module("gpu")
    results = {name: {"fault": None, "lines": []} for name in PARTS}
    results["kernels"]["lines"] = [{"right": True}, {"right": False}]
    results["recipe"]["lines"] = [{"seconds_per_step": seconds} for seconds in (9.0, 0.2, 0.3, 0.4)]
    results["profile"]["lines"] = [{"waits": {"dino_detr/matching.py:90": 2}}]
    row = {"backbone": "vit-b", "batch_size": 2, "precision": "fp16", "compile": False, "peak_memory_mib": 5000}
    results["benchmark"]["lines"] = [row | {"seconds_per_iteration": 0.7}, row | {"error": "out of memory"}]
    assert list(gpu.judge(results).values()) == [False, *[True] * len(PARTS), False, False, False]
    results["recipe"]["lines"], results["kernels"]["lines"] = [], []
    results["profile"]["lines"] = [{"waits": None}]
    assert list(gpu.judge(results).values()) == [None, *[True] * len(PARTS), False, None, None]

    slow = ["-m", "timeit", "-n", "1", "-r", "1", "__import__('time').sleep(60)"]
    assert gpu.run_part(gpu.Part("slow", slow, 1), tmp_path, dict(ENVIRONMENT))["fault"] == "cut off after 1 s"
