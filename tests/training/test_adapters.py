"""Adapters on a frozen backbone: trained, merged, resumed bit for bit, and read by peft."""

import copy
import shutil

import peft
import pytest
import torch
from helpers.launching import lines, with_backbone
from helpers.tiny import random_images, tiny_detector
from safetensors.torch import load_file

from dino_detr import DinoDetrForObjectDetection
from dino_detr.inference import Detector
from dino_detr.training import parse_options, prepare, train
from dino_detr.training.adapters import add_adapters, merge_adapters, merge_weights
from dino_detr.training.optimizer import build_optimizer

LORA = ["--freeze_backbone", "true", "--lora_rank", "4"]


def stirred(model):
    """As after training: a new adapter changes nothing."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def outputs(model):
    with torch.no_grad():
        return model.eval()(random_images(2, 3, 96, 128, seed=0)).logits


@pytest.mark.parametrize("targets", ["backbone", "all"])
def test_merged_and_unmerged_agree(targets, tmp_path):
    model = tiny_detector(freeze_backbone=True)
    before, trained = outputs(model), {name for name, p in model.named_parameters() if p.requires_grad}
    add_adapters(model, 4, targets)
    assert torch.equal(outputs(model), before)
    adapted = {name for name, p in model.named_parameters() if p.requires_grad}
    own = {name for name in adapted if "lora_" in name}
    still = trained - set(dict(model.named_parameters()))  # renamed, for they have adapters
    assert own and {name.split(".")[1] for name in own} == (
        {"backbone"} if targets == "backbone" else {"backbone", "encoder", "decoder"}
    )
    assert adapted - own == {name for name in trained if name in dict(model.named_parameters())} and bool(still) == (
        targets == "all"
    )

    stirred(model)
    unmerged = outputs(model)
    assert (unmerged - before).abs().max() > 0.01
    plain = copy.deepcopy(model)
    merge_adapters(plain, plain.state_dict())
    torch.testing.assert_close(outputs(plain), unmerged, rtol=0, atol=2e-5)
    by_peft = copy.deepcopy(model)  # independent of ours: peft's own merging
    for module in by_peft.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.merge()
    torch.testing.assert_close(outputs(plain), outputs(by_peft), rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path, state_dict=merge_weights(model, model.state_dict()))
    loaded = DinoDetrForObjectDetection.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == tiny_detector().state_dict().keys()
    assert torch.equal(outputs(loaded), outputs(plain))
    assert torch.equal(outputs(model), unmerged)  # writing changed nothing


def test_adapters_learn_at_the_full_rate_and_by_depth():
    model = tiny_detector(freeze_backbone=True)
    add_adapters(model, 2)
    rates = {}
    for group in build_optimizer(model, 1e-3, backbone_lr_factor=0.1, backbone_layer_decay=0.5).param_groups:
        rates |= dict.fromkeys(group["params"], group["lr"])
    of_blocks = [
        {
            rates[p]
            for name, p in model.named_parameters()
            if f"backbone.model.encoder.layer.{i}." in name and "lora_" in name
        }
        for i in range(2)
    ]
    assert of_blocks == [{0.25e-3}, {0.5e-3}]


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """An unbroken run with everything on, and one that goes on from the first of its two checkpoints."""
    folder = tmp_path_factory.mktemp("adapters")
    path = with_backbone(recipe, folder, "dinov2")
    options = [
        str(path),
        *LORA,
        "--bf16",
        "true",
        "--gradient_checkpointing",
        "--ema_decay",
        "0.5",
        "--learning_rate",
        "0.01",
    ]

    def trained(name, *words):
        train(prepare(parse_options([*options, "--output_dir", str(folder / name), *words])))
        return folder / name

    whole = trained("whole")
    broken_off = shutil.ignore_patterns("checkpoint-4", "model.safetensors.*", "report", "plots")
    shutil.copytree(whole, folder / "resumed", ignore=broken_off)
    return whole, trained("resumed", "--resume_from_checkpoint", "latest")


def test_a_resumed_run_is_the_unbroken_one(runs):
    weights = ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapted.safetensors")
    files = [f"{part}{name}" for part in ("", "checkpoint-4/", "checkpoint-4/ema/") for name in weights]
    for name in files:
        whole, resumed = (load_file(run_ / name) for run_ in runs)
        assert [key for key in whole if not whole[key].equal(resumed[key])] == [], name
    losses = [[line["loss"] for line in lines(run_ / "metrics.jsonl")] for run_ in runs]
    assert losses[0] == losses[1]


def test_the_run_folder_is_a_plain_checkpoint_with_its_adapter(runs, tmp_path):
    whole, _ = runs
    weights = load_file(whole / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in weights)
    begun = load_file(whole / "checkpoint-2" / "adapter" / "adapted.safetensors")
    ended = load_file(whole / "adapter" / "adapted.safetensors")
    assert all(begun[name].equal(ended[name]) for name in begun)  # the backbone's own weights were left
    detector = Detector(whole)
    plain = outputs(detector.model)

    base = DinoDetrForObjectDetection.from_pretrained(whole)
    base.load_state_dict(base.state_dict() | ended)
    assert not torch.allclose(outputs(base), plain, atol=1e-4)
    adapted = peft.PeftModel.from_pretrained(base, whole / "adapter")
    torch.testing.assert_close(outputs(adapted), plain, rtol=0, atol=2e-5)


def test_refusals(recipe, runs, tmp_path):
    for words, said in [
        (["--lora_rank", "4", "--freeze_backbone", "false"], "lora_rank has no effect here: see freeze_backbone"),
        (["--lora_targets", "all", "--freeze_backbone", "true"], "lora_targets has no effect here: see lora_rank"),
        ([*LORA, "--lora_targets", "heads"], "lora_targets='heads' is none of backbone, all"),
        (["--lora_rank", "0", "--freeze_backbone", "true"], "lora_rank=0 must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=said):
            parse_options([str(recipe), *words])
    resnet = with_backbone(recipe, tmp_path, "resnet")
    with pytest.raises(ValueError, match="a resnet backbone has no linear layers to adapt"):
        prepare(parse_options([str(resnet), *LORA, "--output_dir", str(tmp_path / "resnet")]))
    with pytest.raises(ValueError, match="adapters of rank 4 on other layers, or of another rank"):
        options = [str(with_backbone(recipe, tmp_path, "dinov2")), "--freeze_backbone", "true", "--lora_rank", "3"]
        options += ["--output_dir", str(tmp_path / "other"), "--resume_from_checkpoint", str(runs[0] / "checkpoint-2")]
        train(prepare(parse_options(options)))
