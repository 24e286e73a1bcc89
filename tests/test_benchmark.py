"""The ablation table, on a backbone that takes no time."""

import json
import sys

import matplotlib.image
import torch
from launching import run
from tiny import tiny_backbone_config
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
