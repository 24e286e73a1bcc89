"""A run on any kind of backbone goes on where it was, bit for bit."""

import pytest
from helpers.launching import lines, with_backbone
from safetensors.torch import load_file

from dino_detr.training import parse_options, prepare, train

TRAINED = {"resnet": "1", "swin": "false", "vitdet": "1"}  # what of it is frozen


@pytest.mark.parametrize("kind", TRAINED)
def test_a_resumed_run_is_the_unbroken_one(kind, recipe, tmp_path):
    """In bf16, with gradient checkpointing and, but for the ResNet, blocks that are dropped at random."""
    path = with_backbone(recipe, tmp_path, kind, **({} if kind == "resnet" else {"drop_path_rate": 0.5}))

    def trained(name, *words):
        options = [
            str(path),
            "--output_dir",
            str(tmp_path / name),
            "--freeze_backbone",
            TRAINED[kind],
            "--bf16",
            "true",
        ]
        train(
            prepare(
                parse_options(
                    [
                        *options,
                        "--gradient_checkpointing",
                        "--eval_strategy",
                        "no",
                        "--load_best_model_at_end",
                        "false",
                        *words,
                    ]
                )
            )
        )
        return load_file(tmp_path / name / "checkpoint-4" / "model.safetensors"), lines(
            tmp_path / name / "metrics.jsonl"
        )

    whole, metrics = trained("whole")
    begun = load_file(tmp_path / "whole" / "checkpoint-2" / "model.safetensors")
    resumed, again = trained("resumed", "--resume_from_checkpoint", str(tmp_path / "whole" / "checkpoint-2"))
    changed = {name for name in whole if not whole[name].equal(begun[name])}
    assert any(name.startswith("model.backbone") for name in changed)
    assert not any(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)
    assert [name for name in whole if not whole[name].equal(resumed[name])] == []
    assert [line["loss"] for line in again] == [line["loss"] for line in metrics[2:]]
