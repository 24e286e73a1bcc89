"""Two real processes started with the shipped accelerate files: DDP, and FSDP2 on the shards of torch's CPU mesh."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config import load_config_from_file
from helpers.launching import ENVIRONMENT, ROOT, lines, run
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from dino_detr import DinoDetrForObjectDetection
from dino_detr.training import parse_options

FILES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
SCHEDULE = ["--max_steps", "4", "--ema_decay", "0.5", "--augmentation", "none"]  # of 9 images; 7 to evaluate on


def launch(file: str, *command, expect=0) -> str:
    """A shipped file on two processes; the recipe says `use_cpu`."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes" / "accelerate" / f"{file}.yaml"]
    return run(
        sys.executable, *launcher, "--num_processes", "2", "--main_process_port", "0", *command, expect=expect
    )  # fmt: skip


def assert_close(folder: Path, other: Path, tolerance: float):
    actual, expected = (load_file(path / "model.safetensors") for path in (folder, other))
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=tolerance, rtol=tolerance, msg=name)


def best(folder: Path) -> Path:
    step = max(lines(folder / "evaluation.jsonl"), key=lambda line: line["ema_AP"])["step"]  # the first of equals
    return folder / f"checkpoint-{step}" / "ema"


@pytest.fixture(scope="module")
def ddp(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ddp") / "run"
    launch("ddp", "train.py", recipe, *SCHEDULE, "--output_dir", folder)
    return folder


@pytest.fixture(scope="module")
def fsdp2(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fsdp2") / "run"
    output = launch("fsdp2", "tests/helpers/fsdp_on_cpu.py", recipe, *SCHEDULE, "--output_dir", folder)
    for layer in ("Dinov2Layer", "DinoDetrEncoderLayer", "DinoDetrDecoderLayer", "DinoDetrForObjectDetection"):
        assert f"sharded: {layer}\n" in output
    return folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_accelerates(path, monkeypatch):
    """Every key is one that this accelerate knows (it raises otherwise), and precision is the recipe's."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    config = load_config_from_file(str(path))
    kinds = {"one_gpu": "NO", "ddp": "MULTI_GPU", "multi_node": "MULTI_GPU", "fsdp2": "FSDP"}
    assert config.distributed_type == kinds[path.stem]
    assert config.mixed_precision == "no"
    assert config.num_processes % config.num_machines == 0


def test_precision_is_the_recipes(recipe, tmp_path, monkeypatch):
    """A file that says bf16 must not train a recipe in bf16 that does not say so."""
    options = [str(recipe), "--output_dir", str(tmp_path)]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match=r"mixed_precision: bf16, the recipe does not: set bf16: true"):
        parse_options(options)
    assert parse_options([*options, "--bf16"]).mixed_precision == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert parse_options([*options, "--bf16"]).mixed_precision == "bf16"


def test_ddp(ddp):
    assert json.loads((ddp / "environment.json").read_text())["processes"] == 2
    assert [line["step"] for line in lines(ddp / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_one_gpu(recipe, tmp_path):
    launcher = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes" / "accelerate" / "one_gpu.yaml"]
    run(sys.executable, *launcher, "train.py", recipe, "--max_steps", "2", "--output_dir", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 1


@pytest.mark.slow
def test_multi_node_is_ddp(recipe, ddp, tmp_path):
    """Two machines of one process each, both here."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "recipes" / "accelerate" / "multi_node.yaml"), "--num_processes", "2"]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(20000 + os.getpid() % 20000)]
    script = ["train.py", str(recipe), *SCHEDULE, "--output_dir", str(tmp_path / "run")]
    machines = [
        subprocess.Popen([*command, "--machine_rank", rank, *script], cwd=ROOT, env=ENVIRONMENT) for rank in ("0", "1")
    ]
    assert [machine.wait(timeout=300) for machine in machines] == [0, 0]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    assert_close(tmp_path / "run", ddp, 0)


def test_fsdp2_is_refused_where_it_would_not_shard(recipe, tmp_path):
    """On a CPU accelerate leaves FSDP out without a word."""
    output = launch("fsdp2", "train.py", recipe, "--output_dir", tmp_path / "run", expect=1)
    assert "FSDP trains on GPUs" in output and "ddp.yaml" in output
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_fsdp2_is_refused_beside_muon(recipe, tmp_path):
    command = ["tests/helpers/fsdp_on_cpu.py", recipe, "--output_dir", tmp_path / "run", "--muon", "true"]
    assert "muon needs whole matrices" in launch("fsdp2", *command, expect=1)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_fsdp2_trains_as_ddp(fsdp2, ddp, data):
    """Losses, clipped norms, weights, their average, COCO's figures (of 4 and 3 images), and what files are left."""
    assert json.loads((fsdp2 / "environment.json").read_text())["processes"] == 2
    for name, keys in (("metrics", ("loss", "grad_norm")), ("evaluation", ("AP", "AR100", "ema_AP", "ema_AR100"))):
        pairs = list(zip(lines(fsdp2 / f"{name}.jsonl"), lines(ddp / f"{name}.jsonl"), strict=True))
        assert pairs
        for sharded, whole in pairs:
            for key in keys:
                assert sharded[key] == pytest.approx(whole[key], rel=1e-4, abs=1e-7), (name, key, whole["step"])
    for folder in ("checkpoint-2", "checkpoint-4", "checkpoint-4/ema"):
        assert_close(fsdp2 / folder, ddp / folder, 1e-5)
    assert_close(fsdp2, best(fsdp2), 0)
    for folder in ("", "checkpoint-4", "checkpoint-4/ema"):
        names = [{path.name for path in (run_ / folder).iterdir()} for run_ in (fsdp2, ddp)]
        assert names[0] == names[1]  # the model's code, nothing of torch's; no second copy of the weights
    assert json.loads((fsdp2 / "config.json").read_text()) == json.loads((ddp / "config.json").read_text())
    model = DinoDetrForObjectDetection.from_pretrained(fsdp2)
    assert len(load_file(fsdp2 / "model.safetensors")) == len(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fsdp2", "ddp", "one process"])
def test_fsdp2_goes_on(recipe, fsdp2, tmp_path, layout):
    """Cut off after its second step, in its own layout or another: weights, average and AdamW's moments as unbroken."""
    folder = tmp_path / "run"
    shutil.copytree(fsdp2, folder)
    shutil.rmtree(folder / "checkpoint-4")
    for name in ("model.safetensors", "config.json", "figures.json", "README.md"):
        (folder / name).unlink()
    options = [recipe, *SCHEDULE, "--output_dir", folder, "--resume_from_checkpoint", "latest"]
    if layout == "one process":
        run(sys.executable, "train.py", *options)
    else:
        launch(layout, "train.py" if layout == "ddp" else "tests/helpers/fsdp_on_cpu.py", *options)
    # another layout pads other images together, and so computes other steps
    tolerance = 5e-3 if layout == "one process" else 1e-5
    for part in ("checkpoint-4", "checkpoint-4/ema"):
        assert_close(folder / part, fsdp2 / part, tolerance)
    assert_close(folder, best(folder), 0)
    if layout != "one process":
        with safe_globals():
            states = [torch.load(path / "checkpoint-4" / "optimizer.pt", weights_only=True) for path in (folder, fsdp2)]
        torch.testing.assert_close(states[0]["state"], states[1]["state"], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_fsdp2_with_everything(recipe, tmp_path):
    """Frozen, bf16, gradient checkpointing, accumulation: as DDP."""
    options = ["--freeze_backbone", "true", "--bf16", "--gradient_checkpointing", "--gradient_accumulation_steps", "2"]
    history = {}
    for file, script in (("ddp", "train.py"), ("fsdp2", "tests/helpers/fsdp_on_cpu.py")):
        launch(file, script, recipe, *SCHEDULE, *options, "--output_dir", tmp_path / file)
        history[file] = lines(tmp_path / file / "metrics.jsonl")
    for sharded, whole in zip(history["fsdp2"], history["ddp"], strict=True):
        assert sharded["loss"] == pytest.approx(whole["loss"], rel=1e-2)
        assert sharded["grad_norm"] == pytest.approx(whole["grad_norm"], rel=5e-2)
    assert history["fsdp2"][0]["loss"] == pytest.approx(history["ddp"][0]["loss"], rel=1e-4)
