"""Promise 19: every public option of ours changes something when it is flipped."""

import hashlib
import json
import re
import shutil
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from helpers.launching import RECIPE, run
from helpers.scenes import write_scenes
from helpers.tiny import tiny_backbone_config, tiny_detector
from transformers import AutoBackbone, TrainerControl, TrainingArguments

from dino_detr.training import DinoDetrTrainingArguments, parse_options, prepare

FLIPS = {
    "augmentation": ["none"],
    "backbone": ["OTHER_BACKBONE"],
    "backbone_layer_decay": ["0.5"],
    "backbone_lr_factor": ["0.5"],
    "check_images": ["none"],
    "class_weights": ['{"digit 1": 3}'],
    "dataset": ["digits"],
    "dataset_weights": ["1", "2", "--dataset", "DATA", "OTHER_DATA"],
    "early_stopping_patience": ["1"],
    "ema_decay": ["0.9"],
    "eval_split": ["train"],
    "freeze_backbone": ["true"],
    "horizontal_flip": ["1"],
    "image_sizes": ["96"],
    "iou_crop": ["true"],
    "lora_rank": ["2", "--freeze_backbone", "true"],
    "lora_targets": ["all", "--lora_rank", "2", "--freeze_backbone", "true"],
    "lr_decay_steps": ["0.5"],
    "max_image_size": ["90"],
    "model": ["CHECKPOINT"],
    "model_config": ['{"decoder_layers": 1}'],
    "muon": ["true"],
    "num_denoising": ["5"],
    "num_queries": ["7"],
    "overfit_images": ["3"],
    "overwrite": ["true"],
    "patch_size": ["8"],
    "photometric_distort": ["true"],
    "repeat_factor": ["1"],
    "strict": ["true"],
    "total_batch_size": ["2"],
    "train_split": ["val"],
    "val_share": ["0.3"],
    "zoom_out": ["true"],
}
OURS = {f.name for f in fields(DinoDetrTrainingArguments) if f.init} - {f.name for f in fields(TrainingArguments)}


def digest(tensors) -> str:
    numbers = [tensor.detach().float().numpy().tobytes() for tensor in tensors]
    return hashlib.sha256(b"".join(numbers)).hexdigest()


def effects(options) -> dict:
    """What a run with these options would do, as far as it can be seen without training."""
    try:
        trainer = prepare(options)
    except FileExistsError:
        return {"refused": True}
    except ValueError as error:
        assert "strict: 1 defect in" in str(error)
        return {"refused": True}
    model, samples = trainer.model, trainer.train_dataset
    trainer.create_optimizer_and_scheduler(options.max_steps)
    groups = [
        (group["initial_lr"], group["weight_decay"], sum(p.numel() for p in group["params"]))
        for group in trainer.optimizer.param_groups
    ]
    averages = None
    if trainer.average in trainer.callback_handler.callbacks:
        trainer.average.start(model)
        with torch.no_grad():
            model.model.query_embed.weight += 1
        trainer.average.update()
        with torch.no_grad():
            model.model.query_embed.weight -= 1
        averages = digest(trainer.average.averages)
    drawn = [samples[index] for index in range(3)]
    stop, trainer.state.best_metric = TrainerControl(), 1.0
    for _ in range(3):  # of which none is better than the best
        trainer.callback_handler.on_evaluate(options, trainer.state, stop, {"eval_AP": 0.0, "eval_ema_AP": 0.0})
    return {
        "config": model.config.to_json_string(),
        "weights": digest(model.state_dict().values()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "groups": groups,
        "rates": [trainer.lr_scheduler.lr_lambdas[0](step) for step in range(options.max_steps)],
        "averages": averages,
        "stops": stop.should_training_stop,
        "batch": len(next(iter(trainer.get_train_dataloader()))["labels"]),
        "order": list(trainer._get_train_sampler()),
        "images": digest(sample["image"] for sample in drawn),
        "boxes": [sample["annotation"]["annotations"] for sample in drawn],
        "evaluated": (trainer.eval_dataset["image_id"], trainer.processor.size),
    }


@pytest.fixture(scope="module")
def flip(data, tmp_path_factory):
    """The effects of the base recipe with one option flipped; without a name, of the base recipe."""
    folder = tmp_path_factory.mktemp("options")
    for name, width in (("backbone", 32), ("other_backbone", 48)):
        torch.manual_seed(0)
        AutoBackbone.from_config(tiny_backbone_config(hidden_size=width)).save_pretrained(folder / name)
    tiny_detector(num_queries=20).save_pretrained(folder / "checkpoint")
    recipe = {"dataset": str(data), **RECIPE, "backbone": str(folder / "backbone"), "patch_size": 16}
    recipe["model_config"] = {k: v for k, v in recipe["model_config"].items() if k != "backbone_config"}
    del recipe["total_batch_size"]
    path = folder / "base.yaml"
    path.write_text(yaml.safe_dump(recipe))
    write_scenes(folder / "other_data", {"train": 3, "val": 2})
    places = {
        "DATA": data,
        "OTHER_DATA": folder / "other_data",
        "OTHER_BACKBONE": folder / "other_backbone",
        "CHECKPOINT": folder / "checkpoint",
    }

    def effects_of(name: str | None = None, occupied: bool = False, dataset: Path = data) -> dict:
        output = Path(tempfile.mkdtemp(dir=folder))
        if occupied:
            (output / "config.json").write_text("{}")
        values = [str(places.get(value, value)) for value in FLIPS.get(name, [])]
        if name == "model":  # its architecture is its own
            values += ["--model_config", "{}"]
        arguments = ["--dataset", str(dataset), *([f"--{name}", *values] if name else [])]
        return effects(parse_options([str(path), "--output_dir", str(output), *arguments]))

    return effects_of


@pytest.fixture
def dirty(data, tmp_path) -> Path:
    """The data set with a box of no size."""
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 10**6, "bbox": [1, 1, 0, 0]})
    path.write_text(json.dumps(content))
    return tmp_path / "data"


@pytest.fixture
def broken(data, tmp_path) -> Path:
    """The data set with an image to evaluate on that is none."""
    shutil.copytree(data, tmp_path / "broken")
    content = json.loads((tmp_path / "broken" / "annotations" / "instances_val.json").read_text())
    (tmp_path / "broken" / "val" / content["images"][0]["file_name"]).write_text("no image")
    return tmp_path / "broken"


def test_every_option_is_tried_and_explained():
    assert set(FLIPS) == OURS
    output = run(sys.executable, "-m", "dino_detr.cli", "train", "--help")
    assert set(re.findall(r"^  --(\w+) +\S", output, flags=re.M)) == OURS


@pytest.mark.parametrize("name", sorted(FLIPS))
def test_flipping_an_option_changes_something(flip, data, dirty, broken, name):
    occupied = name == "overwrite"
    dataset = {"strict": dirty, "check_images": broken}.get(name, data)
    base = flip(None, occupied, dataset)
    assert flip(name, occupied, dataset) != base


def test_the_same_options_change_nothing(flip):
    """Or the test above could not fail."""
    assert flip(None) == flip("")
