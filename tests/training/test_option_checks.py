"""Values that cannot be, alone or beside others, are named before anything is done."""

import sys
from dataclasses import replace

import pytest
import yaml
from helpers.launching import RECIPE, ROOT, run
from transformers import HfArgumentParser
from transformers.testing_utils import CaptureLogger

from dino_detr.training import DinoDetrTrainingArguments, outlook, parse_options, prepare


@pytest.mark.parametrize(
    "words, said",
    [
        ("--num_queries 0", "num_queries=0 must be at least 1"),
        ("--num_queries -3", "num_queries=-3 must be at least 1"),
        ("--num_denoising -1", "num_denoising=-1 must be 0 or more"),
        ("--total_batch_size 0", "total_batch_size=0 must be at least 1"),
        ("--gradient_accumulation_steps 0", "gradient_accumulation_steps=0 must be at least 1"),
        ("--image_sizes 64 -80", "image_sizes=-80 must be at least 16"),
        ("--image_sizes 0", "image_sizes=0 must be at least 16"),
        ("--image_sizes 1", "image_sizes=1 must be at least 16"),
        ("--image_sizes []", "image_sizes is empty"),
        ("--image_sizes 400", "image_sizes has 400, above max_image_size=128"),
        ("--max_image_size 70", "image_sizes has 80, above max_image_size=70"),
        ("--max_image_size -1", "max_image_size=-1 must be at least 16"),
        ("--learning_rate -1e-4", r"learning_rate=-0\.0001 must be 0 or more"),
        ("--learning_rate nan", "learning_rate=nan must be 0 or more"),
        ("--learning_rate inf", "learning_rate=inf must be 0 or more"),
        ("--learning_rate high", "learning_rate: 'high' is not a number"),
        ("--backbone_lr_factor -1", "backbone_lr_factor=-1.0 must be 0 or more"),
        ("--weight_decay nan", "weight_decay=nan must be 0 or more"),
        ("--max_grad_norm -1", "max_grad_norm=-1.0 must be 0 or more"),
        ("--adam_beta1 1", "adam_beta1=1.0 must be from 0 to below 1"),
        ("--ema_decay 1", "ema_decay=1.0 must be between 0 and 1"),
        ("--horizontal_flip 50", "horizontal_flip=50.0 must be from 0 to 1"),
        ("--seed -1", "seed=-1 must be from 0"),
        ("--seed 5000000000", "seed=5000000000 must be from 0"),
        ("--max_steps 0", "max_steps=0 must be at least 1"),
        ("--max_steps -5", "max_steps=-5 must be at least 1"),
        ("--num_train_epochs 0", "num_train_epochs=0.0 must be above 0"),
        ("--num_train_epochs nan", "num_train_epochs=nan must be above 0"),
        ("--eval_steps 0", "eval_steps=0.0 must be above 0"),
        ("--logging_steps -1", "logging_steps=-1.0 must be above 0"),
        ("--dataloader_num_workers -1", "dataloader_num_workers=-1 must be 0 or more"),
        ("--dataloader_prefetch_factor 2", "dataloader_prefetch_factor has no effect here: see dataloader_num_workers"),
        ("--dataloader_persistent_workers", "dataloader_persistent_workers has no effect here"),
        ("--per_device_eval_batch_size 0", "per_device_eval_batch_size=0 must be at least 1"),
        ("--lr_decay_steps -1", r"lr_decay_steps=-1\.0 must be above 0"),
        ("--lr_decay_steps 4", "lr_decay_steps has 4, and the run of 4 steps is over by then"),
        ("--lr_decay_steps 0.5 100", "lr_decay_steps has 100, and the run of 4 steps is over by then"),
        ("--warmup_steps -1", "warmup_steps=-1.0 must be 0 or more"),
        ("--warmup_steps 5", "warmup_steps=5 is longer than the run of 4 steps, which ends at 80.0% of learning_rate"),
        ("--warmup_steps 50 --max_steps 20", "warmup_steps=50 is longer than the run of 20 steps"),
        ("--warmup_steps 2 --lr_scheduler_type constant", "warmup_steps has no effect here: see lr_scheduler_type"),
        ("--data_seed 1", "data_seed is an option of transformers that has no effect here: the order of ima"),
        ("--metric_for_best_model eval_loss", "metric_for_best_model=eval_loss is not a figure of the evaluation: "
         "there are AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl$"),
        ("--metric_for_best_model map_50", "metric_for_best_model=map_50 is not a figure"),
        ("--metric_for_best_model ema_AP", "is not a figure of the evaluation: .* ema_AP and so on need ema_decay"),
        ("--metric_for_best_model loss --ema_decay 0.9", "is not a figure of the evaluation: .*, ema_ARl$"),
        ("--greater_is_better false", "greater_is_better=false would keep the worst weights"),
        ("--save_strategy epoch", "--load_best_model_at_end requires the save and eval strategy to match"),
        ("--bf16 perhaps", "bf16=perhaps must be true, false or auto"),
        ("--model=", "model is empty: give it a value, or leave it out"),
        ("--output_dir=", "output_dir is empty"),
        ("--dataset=", "dataset is empty"),
        ("--resume_from_checkpoint=", "resume_from_checkpoint is empty"),
        ("--log_level loud", "log_level=loud must be one of detail, debug, info"),
        ("--lr_scheduler_type cosine_with_min_lr", "lr_scheduler_type=cosine_with_min_lr cannot be made with"),
        ("--lr_scheduler_type cosine --lr_scheduler_kwargs {\"x\":2}", "with lr_scheduler_kwargs={'x': 2}: "),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named(recipe, words, said):
    with pytest.raises(ValueError, match=said) as raised:
        parse_options([str(recipe), *words.split()])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("words", ["AP50", "eval_AP75", "APs", "AR100"])
def test_every_figure_may_choose_the_best(recipe, words):
    assert parse_options([str(recipe), "--metric_for_best_model", words]).metric_for_best_model.endswith(words)


@pytest.mark.parametrize(
    "config, said",
    [
        ({"num_queries": 0}, "num_queries is given as an option and in model_config"),
        ({"decoder_layers": 0}, "model_config: decoder_layers=0 must be at least 1"),
        ({"d_model": -64}, "model_config: d_model=-64 must be at least 1"),
        ({"box_noise_scale": float("nan")}, "model_config: box_noise_scale=nan must be 0 or more"),
        ({"num_unused_classes": -1}, "model_config: num_unused_classes=-1 must be 0 or more"),
        ({"freeze_backbone": False}, "model_config: freeze_backbone is an option of its own"),
        ({"num_labels": 3}, "model_config: num_labels follows from the data set's classes"),
        (
            {"backbone_config": {"model_type": "dinov2", "hiden_size": 16}},
            "has no field 'hiden_size'; did you mean 'hidden",
        ),
    ],
)
def test_the_configuration_within_is_looked_at(tmp_path, config, said):
    values = {"dataset": "digits", **RECIPE, "model_config": {**RECIPE["model_config"], **config}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=said):
        parse_options([str(tmp_path / "r.yaml")])


def test_a_metric_that_is_not_there_ends_the_command_at_once(recipe, tmp_path):
    command = ["train.py", recipe, "--output_dir", tmp_path / "run", "--metric_for_best_model", "eval_loss"]
    output = run(sys.executable, *command, expect=1)
    assert "metric_for_best_model=eval_loss is not a figure" in output and "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_a_run_made_shorter_is_told_what_it_is_too_short_for(recipe, tmp_path):
    """A look at a recipe with a few steps is no mistake; a recipe that contradicts itself is."""
    path = tmp_path / "long.yaml"
    path.write_text(recipe.read_text() + "warmup_steps: 100\nlr_decay_steps: [3]\n")
    with pytest.raises(ValueError, match="warmup_steps=100 is longer than the run of 4 steps"):
        parse_options([str(path)])
    options = parse_options([str(path), "--max_steps", "2", "--output_dir", str(tmp_path / "run")])
    with CaptureLogger(outlook.logger) as captured:
        prepare(options)
    assert "warmup_steps=100 is longer than the run of 2 steps, which ends at 2.0% of learning_rate" in captured.out
    assert "lr_decay_steps has 3, and the run of 2 steps is over by then" in captured.out
    with pytest.raises(ValueError, match="warmup_steps=100 is longer than the run of 9 steps"):
        short = parse_options([str(path), "--num_train_epochs", "3", "--warmup_steps", "100", "--output_dir",
                               str(tmp_path / "x")])  # fmt: skip
        prepare(short)


def test_warm_up_may_be_a_fraction(recipe):
    assert parse_options([str(recipe), "--warmup_steps", "0.25"]).get_warmup_steps(100) == 25


def test_a_recipe_for_gpus_runs_without_one(tmp_path):
    """`bf16: auto` is float32 there, and `--bf16 true` needs no --use_cpu."""
    finetune = str(ROOT / "recipes" / "finetune.yaml")
    options = parse_options([finetune, "--output_dir", str(tmp_path)])
    assert (options.bf16, options.mixed_precision, options.device.type) == (False, "no", "cpu")
    assert parse_options([finetune, "--bf16", "true"]).mixed_precision == "bf16"
    assert parse_options([finetune, "--bf16"]).recipe["bf16"] is True


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"overfit_images": 2},
        {"ema_decay": 0.5, "metric_for_best_model": "AP50"},
        {"lr_decay_steps": [0.5], "gradient_accumulation_steps": 2},
    ],
)
def test_options_can_be_made_again_with_some_replaced(tmp_path, more):
    """By tools that give every option, also those that were settled by the first."""
    options = DinoDetrTrainingArguments(
        str(tmp_path), model="m", dataset="digits", use_cpu=True, weight_decay=0.1, **more
    )
    expected = options.recipe | {"seed": 7, "total_batch_size": 32}
    again = replace(options, seed=7, total_batch_size=32)
    assert again.recipe == expected and again.to_dict() == options.to_dict() | {
        "seed": 7,
        "total_batch_size": 32,
        "per_device_train_batch_size": options.per_device_train_batch_size * 2,
    }
    values = options.to_dict()
    assert DinoDetrTrainingArguments(**values).recipe == options.recipe
    assert HfArgumentParser(DinoDetrTrainingArguments).parse_dict(values)[0].recipe == options.recipe
    for wrong in ({"eval_steps": 0}, {"data_seed": 3}, {"patch_size": 8}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(options, **wrong)
