"""Each recipe says what RECIPE and README say of it, and can be parsed, changed and run."""

import re
import sys

import pytest
import torch
import yaml
from helpers.launching import ROOT, TWO_PROCESSES, lines, run
from helpers.tiny import ALL_BACKBONES, tiny_detector
from torch import nn

from dino_detr.training import build_optimizer, parse_options
from dino_detr.training.trainer import DetectionTrainer

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
STEPS = {"12ep": (90000, 82500), "50ep": (375000, 300000)}
BACKBONES = {
    "small": "facebook/dinov2-small",
    "base": "facebook/dinov2-base",
    "large": "facebook/dinov2-large",
    "giant": "facebook/dinov2-giant",
    "base_timm": "timm:vit_base_patch14_dinov2.lvd142m",
    "base_registers": "facebook/dinov2-with-registers-base",
    "base_dinov3": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "r50": "microsoft/resnet-50",
    "swin_large": "microsoft/swin-large-patch4-window12-384-in22k",
    "vitdet_base": "facebook/vit-mae-base",
}
TRAINED = {"r50": (1, None), "swin_large": (False, 0.2), "vitdet_base": (False, 0.1)}  # stages frozen, drop path


def parse(recipe: str, *arguments: str):
    return parse_options([str(ROOT / "recipes" / f"{recipe}.yaml"), *arguments, "--bf16", "false"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_parse(recipe, tmp_path):
    options = parse(recipe, "--output_dir", str(tmp_path))
    if recipe == "finetune":  # as many steps as suit the data
        assert options.max_steps == -1 and options.lr_decay_steps == [0.8]
    else:
        assert 0 < max(options.lr_decay_steps, default=1) <= options.max_steps
    assert options.per_device_train_batch_size == options.total_batch_size


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.startswith("coco")])
def test_coco_recipes_are_the_references(recipe):
    _, epochs, size = recipe.split("_", 2)
    options = parse(recipe)
    assert (options.max_steps, *options.lr_decay_steps) == STEPS[epochs]
    assert options.warmup_steps == (250 if size in ("large", "giant") else 0)
    frozen, drop_path = TRAINED.get(size, (True, None))
    assert (options.backbone, options.patch_size) == (BACKBONES[size], 16)
    assert options.freeze_backbone == frozen and isinstance(options.freeze_backbone, type(frozen))
    changes = {} if drop_path is None else {"backbone_config": {"drop_path_rate": drop_path}}
    assert (options.model_config or {}) == changes and options.backbone_layer_decay is None
    assert (options.total_batch_size, options.learning_rate, options.weight_decay) == (16, 1e-4, 1e-4)
    assert (options.backbone_lr_factor, options.max_grad_norm, options.num_queries) == (0.1, 0.1, 900)
    assert (options.train_split, options.eval_split) == ("train2017", "val2017")


def test_command_line_wins():
    options = parse(
        "coco_12ep_base", "--total_batch_size", "2", "--dataloader_num_workers", "2", "--backbone",
        "facebook/dinov2-small",
    )  # fmt: skip
    assert (options.per_device_train_batch_size, options.dataloader_num_workers) == (2, 2)
    assert options.backbone == "facebook/dinov2-small"
    options = parse("finetune", "--model", "somewhere")
    assert (options.model, options.backbone) == ("somewhere", None)
    options = parse("coco_12ep_swin_large", "--backbone", "facebook/dinov2-small", "--freeze_backbone", "3")
    assert not options.model_config and options.freeze_backbone == 3
    options = parse("bccd", "--backbone", "facebook/dinov2-small")
    assert "backbone_config" not in options.model_config and options.model_config["d_model"] == 96


def test_a_runs_own_recipe_says_the_same(tmp_path):
    for name in RECIPES:
        options = parse(name, "--total_batch_size", "2")
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(options.recipe))
        assert parse_options([str(path)]).to_dict() == options.to_dict(), name


NO_BEST = ["--load_best_model_at_end", "false"]


def test_options_without_effect_raise(tmp_path):
    """Promise 19: what would be passed over is an error, unless the command line made it so."""
    for arguments, message in [
        (("try", "--patch_size", "14"), "patch_size has no effect here: see backbone, model"),
        (("coco_12ep_base", "--backbone_layer_decay", "0.7"), "backbone_layer_decay has no effect here: see freeze"),
        (("coco_12ep_base", "--eval_strategy", "no", "--eval_steps", "10", *NO_BEST), "eval_steps has no effect here"),
        (("coco_12ep_base", "--num_train_epochs", "3", "--max_steps", "5"), "num_train_epochs has no effect here"),
        (("coco_12ep_base", "--label_smoothing_factor", "0.1"), "label_smoothing_factor is an option of transformers"),
        (("coco_12ep_base", "--save_total_limit", "1"), "save_total_limit must be 2 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            parse(*arguments)
    assert parse("coco_12ep_base", "--num_train_epochs", "3").max_steps == -1
    assert parse("coco_12ep_base", "--lr_scheduler_type", "cosine").lr_decay_steps == []
    assert parse("coco_12ep_base", "--model", "somewhere").backbone is None
    parse("coco_12ep_base", "--eval_strategy", "epoch", "--save_strategy", "epoch")
    recipe = tmp_path / "both.yaml"
    recipe.write_text((ROOT / "recipes" / "coco_12ep_base.yaml").read_text() + "lr_scheduler_type: cosine\n")
    with pytest.raises(ValueError, match="lr_scheduler_type has no effect here: see lr_decay_steps"):
        parse_options([str(recipe), "--bf16", "false"])


DEPTHS = {  # of a ViT's blocks and of stages, by parameter name: the group holds their number
    "resnet": (r"\.stages\.(\d+)\.", 4),
    "swin": (r"\.encoder\.layers\.(\d+)\.", 4),
}


@pytest.mark.parametrize("frozen", [False, 2])
@pytest.mark.parametrize("backbone", ALL_BACKBONES)
def test_layer_decay(backbone, frozen):
    """detectron2's `get_vit_lr_decay_rate`, by parameter name: embeddings 0, block i is i + 1, the rest n + 1."""
    pattern, count = DEPTHS.get(backbone, (r"\.(?:layers?|blocks)\.(\d+)\.", 2))
    model = tiny_detector(backbone, freeze_backbone=frozen)
    optimizer = build_optimizer(model, 1.0, 1e-4, 0.1, backbone_layer_decay=0.7)
    rates = {p: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    plain = build_optimizer(model, 1.0, 1e-4, 0.1)
    decays = {p: group["weight_decay"] for group in plain.param_groups for p in group["params"]}
    assert set(rates) == {p for p in model.parameters() if p.requires_grad} == set(decays)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        expected = 0.1 if ".pyramid." in name else 1.0
        if ".backbone." in name:
            block = re.search(pattern, name)
            depth = int(block[1]) + 1 if block else 0 if re.search("embed|token", name) else count + 1
            assert depth >= int(frozen)
            expected = 0.1 * 0.7 ** (count + 1 - depth)
        assert rates[parameter] == (pytest.approx(expected), decays[parameter]), name


def test_schedule():
    """detectron2's: 0.001 to 1 over the warm-up, a tenth from each drop on; fractions are of the run."""
    options = parse("coco_12ep_large", "--lr_decay_steps", "0.5", "900")
    trainer = DetectionTrainer.__new__(DetectionTrainer)
    trainer.args, trainer.lr_scheduler = options, None
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    trainer.create_scheduler(1000, optimizer)
    rates = []
    for _ in range(1000):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[0] == pytest.approx(0.001) and rates[125] == pytest.approx(0.001 + 0.999 / 2)
    assert (rates[250], rates[499]) == (1.0, 1.0)
    assert rates[500:900] == pytest.approx([0.1] * 400) and rates[900:] == pytest.approx([0.01] * 100)


def test_try_runs_on_two_processes(tmp_path):
    """`recipes/try.yaml` touches every part: it learns, evaluates, saves, draws."""
    options = ["--use_cpu", "--output_dir", tmp_path / "run"]
    run(sys.executable, *TWO_PROCESSES, "train.py", "recipes/try.yaml", *options)
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [5, 10, 15, 20]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert {line["step"] for line in lines(tmp_path / "run" / "evaluation.jsonl")} == {10, 20}
    names = {path.name for path in (tmp_path / "run").rglob("*")}
    assert names >= {"checkpoint-10", "checkpoint-20", "model.safetensors", "README.md", "box_ap.png", "detections.png"}
