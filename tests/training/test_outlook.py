"""What is said before the first step: length, batch, device, memory; and how running out of memory ends."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from helpers.launching import ENVIRONMENT, RECIPE, ROOT, lines
from helpers.tiny import tiny_detector

from dino_detr import cli
from dino_detr.training import outlook, parse_options, prepare
from dino_detr.training.guards.out_of_memory import is_out_of_memory
from dino_detr.training.memory import _left_in_control_groups, memory_at_hand
from dino_detr.training.memory_estimate import activations_of_image, estimate_memory
from dino_detr.training.run_length import choose_steps
from dino_detr.training.trainer import DetectionTrainer

ALONE = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]


def prepared(recipe, tmp_path, *words):
    return prepare(parse_options([str(recipe), "--output_dir", str(tmp_path / "run"), *words]))


def test_a_line_says_what_will_be_done(recipe, tmp_path, capsys):
    trainer = prepared(recipe, tmp_path, "--gradient_accumulation_steps", "2")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Training: ")]
    for part in (
        "9 images to train on (train); 7 to evaluate on (val)", "4 steps (1.78 epochs)",
        "4 images a step (2 at a time, 2 times)", "shortest edge 64 to 80", "float32 on the CPU (", " GiB expected, ",
        " GiB at hand",
    ):  # fmt: skip
        assert part in line
    assert trainer.args.per_device_train_batch_size == 2


def without_length(recipe, tmp_path) -> Path:
    values = {name: value for name, value in yaml.safe_load(recipe.read_text()).items() if name != "max_steps"}
    (tmp_path / "any.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "any.yaml"


def test_steps_follow_from_the_number_of_images(recipe, tmp_path, capsys):
    path = without_length(recipe, tmp_path)
    trainer = prepared(path, tmp_path)
    assert trainer.args.max_steps == trainer.args.recipe["max_steps"] == choose_steps(9, 4) == 1680
    assert "1,680 steps (747 epochs), chosen by the number of images" in capsys.readouterr().out
    assert prepared(path, tmp_path, "--max_steps", "7").args.max_steps == 7
    capsys.readouterr()
    assert prepared(path, tmp_path, "--num_train_epochs", "2").args.max_steps == -1
    said = capsys.readouterr().out
    assert "; 6 steps (2.67 epochs);" in said and "chosen" not in said


def test_the_rule_of_length():
    assert [choose_steps(images, 16) for images in (10, 100, 500, 2_000, 10_000, 118_287)] == [
        1_000, 1_400, 3_130, 6_260, 14_000, 30_000,
    ]  # fmt: skip
    assert choose_steps(500, 8) == 2 * choose_steps(500, 16)
    assert "max_steps" not in yaml.safe_load((ROOT / "recipes" / "finetune.yaml").read_text())


def test_the_length_of_epochs_is_the_trainers(recipe, tmp_path):
    path = without_length(recipe, tmp_path)
    for words in ([], ["--dataloader_drop_last", "true"], ["--gradient_accumulation_steps", "2"]):
        trainer = prepared(path, tmp_path, "--num_train_epochs", "2", *ALONE[:2], *ALONE[4:], *words)
        steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[6]
        assert f"{outlook._describe_length(trainer.args, steps, 9)}"
        assert steps == {"drop": 4}.get(words[0][13:17] if words else "", 6)


def test_the_largest_image(recipe):
    options = parse_options([str(recipe)])  # 64 to 80, at most 128
    rows = Dataset.from_dict({"width": [640, 100, 0, 3000], "height": [480, 100, 5, 100]})
    assert outlook.largest_size(rows, options) == (80, 107)
    assert outlook.largest_size(rows.select([3]), options) == (4, 128)


@pytest.fixture
def room(monkeypatch):
    """Say how much memory there is: as a multiple of what one image at a time would need, or of all at once."""

    def make(size):
        monkeypatch.setattr(outlook, "memory_at_hand", lambda device: size)

    return make


def estimates(monkeypatch):
    """10 for the weights and 10 for each image at a time."""
    monkeypatch.setattr(
        outlook, "estimate_memory", lambda options, model, size: 10 + 10 * options.per_device_train_batch_size
    )


def test_a_batch_for_which_there_is_no_room_is_accumulated(recipe, tmp_path, room, capsys, monkeypatch):
    estimates(monkeypatch)
    room(31)
    trainer = prepared(recipe, tmp_path, "--max_steps", "1", *ALONE)
    assert (trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps) == (2, 2)
    assert ", so gradient_accumulation_steps is 2" in capsys.readouterr().out
    assert trainer.accelerator.gradient_accumulation_steps in (1, 2) and trainer.args.total_batch_size == 4
    trainer.train()
    (line,) = lines(tmp_path / "run" / "metrics.jsonl")
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["gradient_accumulation_steps"] == 2
    room(1000)
    whole = prepared(recipe, tmp_path / "whole", "--max_steps", "1", *ALONE)
    whole.train()
    (expected,) = lines(tmp_path / "whole" / "run" / "metrics.jsonl")
    assert line["loss"] == pytest.approx(expected["loss"], rel=0.05)  # but for padding


def test_a_resumed_run_is_accumulated_as_before(recipe, tmp_path, room, monkeypatch):
    """On a machine with more memory too: sums of floats keep their order."""
    estimates(monkeypatch)
    room(21)
    words = ["--max_steps", "2", "--save_steps", "1", "--eval_steps", "1"]
    prepared(recipe, tmp_path, *words).train()
    room(1000)
    resumed = prepared(recipe, tmp_path, *words, "--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-1"))
    assert resumed.args.gradient_accumulation_steps == 4


def test_where_nothing_fits_it_is_said_what_takes_less(recipe, tmp_path, room, monkeypatch):
    estimates(monkeypatch)
    room(13)
    with pytest.raises(
        ValueError, match=r"not enough memory: about .*; to need less: --gradient_checkpointing .*, or "
    ):
        prepared(recipe, tmp_path)
    room(20)
    asked = ["--gradient_accumulation_steps", "1"]
    with pytest.raises(ValueError, match=r"need less: --gradient_accumulation_steps 2 \(the same step, 2 of 4 images"):
        prepared(recipe, tmp_path / "asked", *asked)
    room(None)
    prepared(recipe, tmp_path / "unknown")


def test_the_estimate_is_near_what_was_measured(recipe, monkeypatch):
    """Peaks of `dino-detr benchmark`'s step on a CPU, less what is there before it and AdamW's moments; MiB."""
    options = parse_options([str(recipe), "--total_batch_size", "1"])
    vit_s = {"model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
             "image_size": 518, "patch_size": 16}  # fmt: skip
    from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection

    resnet, swin = ({"model_type": kind, "out_features": ["stage2", "stage3", "stage4"]} for kind in ("resnet", "swin"))
    windows = {"window_size": 14, "window_block_indices": [0, 1, 3, 4, 6, 7, 9, 10], "residual_block_indices": []}
    windows |= {"use_relative_position_embeddings": True, "image_size": 1024}
    for config, size, measured in [
        ({}, (640, 640), 1054),
        ({}, (480, 480), 735),
        ({"num_queries": 300}, (480, 480), 661),
        ({"encoder_layers": 3}, (480, 480), 574),
        ({"d_model": 128, "pyramid_channels": 128}, (480, 480), 455),
        ({"freeze_backbone": False}, (480, 480), 1116),
        ({"backbone_config": resnet, "freeze_backbone": 1}, (480, 640), 1303),
        ({"backbone_config": swin, "freeze_backbone": False}, (480, 640), 1456),
        ({"backbone_config": vit_s | windows | {"model_type": "vitdet"}, "freeze_backbone": False}, (480, 640), 1536),
    ]:
        with torch.device("meta"):
            model = DinoDetrForObjectDetection(DinoDetrConfig(**({"backbone_config": vit_s} | config)))
        assert activations_of_image(options, model, size) / 2**20 == pytest.approx(measured, rel=0.1), config


def test_a_runs_peak_is_near_the_estimate(tmp_path):
    """In a process of its own, which holds nothing else."""
    script = (
        "import sys; from dino_detr.training import outlook, parse_options, prepare;"
        "seen = []; estimate = outlook.estimate_memory;"
        "outlook.estimate_memory = lambda *a: seen.append(estimate(*a)) or seen[-1];"
        "trainer = prepare(parse_options(sys.argv[1:])); trainer.train(); print(seen[-1] / 2**20)"
    )
    words = [str(ROOT / "recipes" / "quickstart.yaml"), "--max_steps", "2", "--logging_steps", "1", *ALONE]
    words += ["--warmup_steps", "0", "--output_dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    peak = lines(tmp_path / "run" / "metrics.jsonl")[-1]["peak_memory_mib"]
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(peak, rel=0.3)


def test_data_workers_and_averages_are_counted(recipe, tmp_path):
    model = tiny_detector(freeze_backbone=False)

    def estimate(*words):
        return estimate_memory(parse_options([str(recipe), *words]), model, (80, 107))

    assert estimate("--dataloader_num_workers", "4") > estimate() + 500 * 2**20
    assert estimate("--ema_decay", "0.9") > estimate()
    assert estimate("--total_batch_size", "8") > estimate("--total_batch_size", "8", "--gradient_checkpointing")


@pytest.mark.parametrize("version", [1, 2])
def test_the_limits_of_control_groups_count(tmp_path, version):
    """As containers and SLURM set them: the narrowest of the process's group and those around it."""
    own = tmp_path / "cgroup"
    own.write_text("0::/slurm/job_1/step_0\n" if version == 2 else "5:cpu:/x\n4:memory:/slurm/job_1/step_0\n")
    root = tmp_path / "sys" if version == 2 else tmp_path / "sys" / "memory"
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    groups = {"slurm/job_1": ("8000", 3000, 500), "slurm/job_1/step_0": ("max", 2000, 0), "slurm": ("90000", 4000, 0)}
    for group, (limit, used, cached) in groups.items():
        folder = root / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{'total_' if version == 1 else ''}inactive_file {cached}\n")
    assert sorted(_left_in_control_groups(tmp_path / "sys", own)) == [5500, 86000]
    assert _left_in_control_groups(tmp_path / "nowhere", own) == []
    assert _left_in_control_groups(tmp_path / "sys", tmp_path / "none") == []


def test_memory_at_hand_is_shared_by_the_machines_processes(monkeypatch):
    alone = memory_at_hand(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 0 < memory_at_hand(torch.device("cpu")) < alone


def test_out_of_memory_is_recognised():
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        torch.empty(2**46, dtype=torch.uint8)
    faults = [
        raised.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), OSError(errno.ENOMEM, "no"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ]  # fmt: skip
    assert all(is_out_of_memory(fault) for fault in faults)
    for fault in (RuntimeError("shapes differ"), OSError(errno.ENOENT, "no such file"), ValueError("out of range")):
        assert not is_out_of_memory(fault)


def test_out_of_memory_ends_in_a_sentence(recipe, tmp_path, monkeypatch, capsys):
    compute_loss = DetectionTrainer.compute_loss

    def run_out(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(DetectionTrainer, "compute_loss", run_out)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(recipe), "--output_dir", str(tmp_path / "run")])
    said = str(ended.value.code).strip()
    assert said.startswith(
        "dino-detr: out of memory at step 2: to need less: --gradient_accumulation_steps 2 (the same"
    )
    assert "go on with --resume_from_checkpoint latest" in said and "\n" not in said
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    monkeypatch.undo()
    options = ["--gradient_accumulation_steps", "2", "--resume_from_checkpoint", "latest"]
    cli.main(["train", str(recipe), "--output_dir", str(tmp_path / "run"), *options])
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert "Writing model shards" not in capsys.readouterr().err  # no bar for each checkpoint


def test_out_of_memory_before_the_first_step_ends_in_a_sentence(recipe, tmp_path, monkeypatch):
    def run_out(*args):
        raise MemoryError

    monkeypatch.setattr("dino_detr.training.run.build_model", run_out)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(recipe), "--output_dir", str(tmp_path / "run")])
    assert str(ended.value.code).startswith("dino-detr: out of memory before the first step")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has no such limit")
def test_memory_that_ends_indeed_ends_in_a_sentence(tmp_path):
    """Within a limit of address space, PyTorch's allocator fails."""
    values = {**RECIPE, "dataset": "digits", "total_batch_size": 64, "image_sizes": [1024], "max_image_size": 1024}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**values, "augmentation": "none"}))
    limited = (
        "import resource, sys; from dino_detr import cli; from dino_detr.training import outlook;"
        "outlook.memory_at_hand = lambda device: None;"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (held + 2500 * 2**20, -1)); cli.main(sys.argv[1:])"
    )
    words = ["train", str(tmp_path / "r.yaml"), "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", limited, *words], capture_output=True, text=True, env=ENVIRONMENT, cwd=os.fspath(ROOT)
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "dino-detr: out of memory at step 0: to need less: --gradient_accumulation_steps 2" in done.stderr
    assert "Traceback" not in done.stderr
