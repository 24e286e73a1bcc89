"""The ablation table, on a backbone that takes no time."""

import json
import mmap
import platform
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
from helpers import launching
from helpers.launching import run
from helpers.tiny import tiny_backbone_config
from transformers import AutoBackbone

from dino_detr import DinoDetrForObjectDetection

SMALL = ["--batch_sizes", "1", "--image_size", "64", "64", "--steps", "2", "--warmup", "1"]
COMMAND = [sys.executable, "-m", "dino_detr.cli", "benchmark", "--backbones"]


def test_benchmark(tmp_path):
    torch.manual_seed(0)
    AutoBackbone.from_config(tiny_backbone_config()).save_pretrained(tmp_path / "vit-tiny")
    (tmp_path / "empty").mkdir()
    output = run(
        *COMMAND, tmp_path / "vit-tiny", tmp_path / "empty", *SMALL, "--precisions", "fp32", "--gradient_checkpointing",
        "--output", tmp_path / "out",
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    plain, recomputed, *failed = report["rows"]
    expected = DinoDetrForObjectDetection.from_backbone(str(tmp_path / "vit-tiny"))
    trained = sum(p.numel() for p in expected.parameters() if p.requires_grad)
    for row in (plain, recomputed):
        assert (row["parameters"], row["trainable_parameters"]) == (expected.num_parameters(), trained)
        assert len(row["step_seconds"]) == 2 and 0 < min(row["step_seconds"]) <= row["seconds_per_iteration"]
        assert row["images_per_second"] == 1 / row["seconds_per_iteration"]
        assert 100 < row["peak_memory_mib"] < 20_000
    assert [row["gradient_checkpointing"] for row in report["rows"]] == [False, True, False, True]
    assert [row["backbone"] for row in failed] == [str(tmp_path / "empty")] * 2
    assert all("config.json" in row["error"] for row in failed)  # it is said, and the others go on
    table = (tmp_path / "out" / "benchmark.md").read_text()
    assert table.strip() in output and table.count("\n| vit-tiny") == 2
    assert matplotlib.image.imread(tmp_path / "out" / "benchmark.png").shape[1] > 600


def test_errors(tmp_path):
    (tmp_path / "benchmark.md").write_text("precious")
    assert f"{tmp_path / 'benchmark.md'} exists already" in run(
        *COMMAND, "vit-s", *SMALL, "--output", tmp_path, expect=1
    )
    assert "no backbone vit-x: it is neither a folder nor a Hub id" in run(*COMMAND, "vit-x", *SMALL, expect=1)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton looks for its compiler elsewhere")
def test_without_a_compiler(tmp_path, monkeypatch):
    """The compiled row says what is missing, the row beside it is measured."""
    torch.manual_seed(0)
    AutoBackbone.from_config(tiny_backbone_config()).save_pretrained(tmp_path / "vit-tiny")
    monkeypatch.setitem(launching.ENVIRONMENT, "CXX", str(tmp_path / "no-compiler"))
    options = ["--precisions", "bf16", "--compile", "--output", tmp_path / "out"]
    run(*COMMAND, tmp_path / "vit-tiny", *SMALL, *options)
    plain, compiled = json.loads((tmp_path / "out" / "benchmark.json").read_text())["rows"]
    assert plain["seconds_per_iteration"] > 0 and "error" not in plain
    assert compiled["error"] == "no C compiler, which torch.compile needs"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what other systems say is taken as it is")
def test_peak_memory_is_not_that_of_the_parent():
    """It would be, read from `ru_maxrss` on Linux: a row would have the memory of whoever started the benchmark."""
    module = Path(launching.ROOT, "dino_detr", "training", "memory.py")
    child = f"import runpy; print(runpy.run_path({str(module)!r})['peak_memory_mib']())"
    parent = (
        "import subprocess, sys; held = bytearray(1500 * 2**20); "
        f"print(subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, text=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, env=launching.ENVIRONMENT)
    assert 50 < float(done.stdout) < 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_training_on_a_cpu_keeps_freed_memory_for_the_next_step():
    script = """
import resource, sys, torch
from dino_detr.training import build_optimizer
if sys.argv[1] == "keep":
    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(1, 1)
    build_optimizer(model)
for step in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [bytearray(4 * 2**20) for _ in range(50)]
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    options = {"capture_output": True, "text": True, "env": launching.ENVIRONMENT}
    faults = {
        word: int(subprocess.run([sys.executable, "-c", script, word], **options).stdout)
        for word in ("keep", "give back")
    }
    pages = 50 * 4 * 2**20 // mmap.PAGESIZE
    assert faults["keep"] < 0.01 * pages and faults["give back"] > 0.5 * pages
