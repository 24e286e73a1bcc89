"""Faults of the output folder are known before the first step, and no run is written over."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
import yaml
from helpers.launching import TWO_PROCESSES, lines, run

from dino_detr.training import parse_options, prepare
from dino_detr.training.checkpointing.output_dir import checkpoint_size


def test_overwrite_sets_the_old_run_aside(recipe, tmp_path):
    """Also where two processes start at once."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("precious")
    short = ["--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    command = [sys.executable, *TWO_PROCESSES, "train.py", recipe, *short, "--output_dir", folder]
    assert "holds a run" in run(*command, expect=1)
    output = run(*command, "--overwrite")
    assert output.count(f"the run in {folder} is now in {folder}.old-1") == 1
    assert (tmp_path / "run.old-1" / "config.json").read_text() == "precious"
    assert [line["step"] for line in lines(folder / "metrics.jsonl")] == [1]
    assert "overwrite" not in yaml.safe_load((folder / "recipe.yaml").read_text())
    run(*command, "--overwrite", "true")
    assert (tmp_path / "run.old-2" / "metrics.jsonl").exists()


def test_an_unwritable_folder(recipe, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file" / "run", tmp_path / "file", "/proc/run"):
        with pytest.raises(OSError, match=f"output_dir: cannot write to {folder}"):
            prepare(parse_options([str(recipe), "--output_dir", str(folder)]))


@pytest.mark.parametrize("adapters", [[], ["--freeze_backbone", "true", "--lora_rank", "2"]], ids=["whole", "lora"])
def test_a_disk_without_room(recipe, tmp_path, monkeypatch, adapters):
    """The size of a checkpoint is what it takes; too little room is said before the first step, with numbers."""
    options = [str(recipe), "--max_steps", "2", "--ema_decay", "0.9", *adapters, "--output_dir"]
    trainer = prepare(parse_options([*options, str(tmp_path / "whole")]))
    trainer.train()
    written = sum(
        path.stat().st_size
        for path in (tmp_path / "whole" / "checkpoint-2").rglob("*")
        if path.suffix in (".safetensors", ".pt")
    )
    assert written == pytest.approx(checkpoint_size(trainer.args, trainer.model), rel=0.1)

    free = written  # for one checkpoint, but not for two and the weights that are left
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(free))
    with pytest.raises(OSError, match=r"the run needs \d+ MiB for its checkpoints, .* has \d+ MiB"):
        prepare(parse_options([*options, str(tmp_path / "full")]))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["data_report.txt"]
    options += [str(tmp_path / "full"), "--save_strategy", "no", "--load_best_model_at_end", "false"]
    prepare(parse_options(options))


def test_a_disk_that_fills_up(recipe, tmp_path):
    """The run ends with a plain message, the checkpoint before stays whole, and with room the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        folder = disk / "run"
        command = [sys.executable, "train.py", recipe, "--output_dir", folder, "--save_total_limit", "2"]
        command += ["--load_best_model_at_end", "false", "--resume_from_checkpoint", "latest"]
        process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (folder / "checkpoint-2").exists():
            pass
        filler = disk / "filler"
        filler.write_bytes(bytes(max(shutil.disk_usage(disk).free - 2**20, 0)))
        _, output = process.communicate()
        assert process.returncode == 1, output
        assert f"no room for {folder / 'checkpoint-4'}" in output and "Traceback" not in output
        assert [path.name for path in folder.glob("*checkpoint*")] == ["checkpoint-2"]
        filler.unlink()
        run(*command)
        assert (folder / "model.safetensors").exists()
        assert torch.load(folder / "checkpoint-4" / "scheduler.pt", weights_only=True)["last_epoch"] == 4
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_images_with_more_objects_than_queries_are_said(recipe, data, tmp_path):
    """Promise 23: before the first step, with the image and what to do."""
    short = ["--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    output = run(
        sys.executable, "train.py", recipe, *short, "--num_queries", "4", "--output_dir", tmp_path / "run"
    )  # fmt: skip
    content = json.loads((data / "annotations" / "instances_train.json").read_text())
    counts = {image["id"]: 0 for image in content["images"]}
    for item in content["annotations"]:
        counts[item["image_id"]] += 1
    most = max(counts.values())
    crowded = sum(count > 4 for count in counts.values())
    assert 0 < crowded < 9
    message = f"train: {crowded} of 9 images have more objects than num_queries=4"
    assert message in output and f"To find all: --num_queries {most}" in output
    assert output.index(message) < output.index("0%|")
