"""Precisions, gradient checkpointing, accumulation, early stopping: as options of a run, and together."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.launching import lines
from safetensors.torch import load_file

from dino_detr.deformable_attention import deformable_sampling
from dino_detr.feed_forward import FeedForward
from dino_detr.loss import dino_loss
from dino_detr.training import parse_options, prepare, train
from dino_detr.training.trainer import DetectionTrainer

SHORT = ["--max_steps", "3", "--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false"]


def train_here(recipe: Path, folder: Path, *options) -> list[dict]:
    """Lines of metrics.jsonl of a run in this process."""
    trainer = prepare(parse_options([str(part) for part in (recipe, *options, "--output_dir", folder)]))
    trainer.train()
    return lines(folder / "metrics.jsonl")


@pytest.fixture(scope="module", params=["unfrozen", "frozen"])
def backbone(request) -> list[str]:
    return ["--freeze_backbone", str(request.param == "frozen").lower()]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gradient_checkpointing_changes_nothing(recipe, backbone, tmp_path, precision, monkeypatch):
    """The same losses and gradient norms, step for step; each layer that learns is run again for the backward pass."""
    calls = []
    forward = FeedForward.forward
    monkeypatch.setattr(FeedForward, "forward", lambda self, x: (calls.append(1), forward(self, x))[1])
    options = [*SHORT, *backbone, "--bf16", str(precision == "bf16").lower()]
    plain, plain_calls = train_here(recipe, tmp_path / "plain", *options), len(calls)
    checkpointed = train_here(recipe, tmp_path / "checkpointed", *options, "--gradient_checkpointing", "true")
    assert plain_calls == 3 * 3 and len(calls) == 3 * plain_calls  # 3 layers, 3 steps
    for actual, expected in zip(checkpointed, plain, strict=True):
        for name in ("loss", "grad_norm", "loss_class_dn", "loss_giou_enc"):
            assert actual[name] == pytest.approx(expected[name], rel=1e-6), (name, expected["step"])


def test_bf16_is_near_float32(recipe, tmp_path, monkeypatch):
    """The same weights, images and noise; what boxes are made of is float32 under autocast, as are losses."""
    seen = []

    def watch(value, spatial_shapes, sampling_locations, attention_weights, sampling):
        seen.append((value.dtype, sampling_locations.dtype, attention_weights.dtype))
        return deformable_sampling(value, spatial_shapes, sampling_locations, attention_weights, sampling)

    monkeypatch.setattr("dino_detr.deformable_attention.deformable_sampling", watch)

    def watch_loss(logits, boxes, denoising_logits, denoising_boxes, *others):
        loss, terms = dino_loss(logits, boxes, denoising_logits, denoising_boxes, *others)
        tensors = [logits, boxes, denoising_logits, denoising_boxes, loss, *terms.values()]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
        return loss, terms

    monkeypatch.setattr("dino_detr.modeling_dino_detr.dino_loss", watch_loss)
    results = {}
    for precision in ("float32", "bf16"):
        options = [recipe, *SHORT, "--bf16", str(precision == "bf16").lower(), "--output_dir", tmp_path / precision]
        trainer = prepare(parse_options([str(part) for part in options]))
        (batch,), _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
        model = trainer.accelerator.prepare(trainer.model).train()
        seen.clear()
        loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
        results[precision] = outputs
        values = {value for value, _, _ in seen}
        assert values == {torch.bfloat16 if precision == "bf16" else torch.float32}  # or autocast did nothing
        assert {dtype for _, *rest in seen for dtype in rest} == {torch.float32}
        loss.backward()
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    float32, bf16 = results["float32"], results["bf16"]
    assert bf16.loss != float32.loss
    assert bf16.loss.item() == pytest.approx(float32.loss.item(), rel=0.02)
    for name, term in float32.loss_dict.items():  # denoising predictions do not hang on which tokens were selected
        if "_dn" in name:
            assert bf16.loss_dict[name].item() == pytest.approx(term.item(), rel=0.02), name


def test_bf16_finishes_as_it_began(recipe, tmp_path, monkeypatch):
    """A bf16 run evaluates in bf16 throughout: also one that was cut off after its last step."""
    folder = tmp_path / "run"
    options = [str(part) for part in (recipe, "--bf16", "--max_steps", "2", "--output_dir", folder)]
    figures = train(prepare(parse_options(options)))
    for name in ("config.json", "model.safetensors", "figures.json"):
        (folder / name).unlink()
    trainer, seen = prepare(parse_options([*options, "--resume_from_checkpoint", "latest"])), set()
    trainer.model.model.encoder.layers[0].ffn.fc1.register_forward_hook(lambda *args: seen.add(args[-1].dtype))
    monkeypatch.setattr(
        "dino_detr.training.description.draw_sample_detections", lambda *_: None
    )  # not a part of the figures
    again = train(trainer)
    assert seen == {torch.bfloat16}
    assert again == figures | {"seconds": again["seconds"]}


def test_fp16_needs_a_gpu(recipe, tmp_path):
    """On a CPU accelerate would train in float32 without a word."""
    with pytest.raises(ValueError, match="fp16 needs a GPU; on a CPU use bf16"):
        parse_options([str(recipe), "--fp16", "--output_dir", str(tmp_path)])


@pytest.fixture
def never_better(monkeypatch):
    """Evaluations whose AP (of the average, too) falls from the second on."""
    score = DetectionTrainer.score

    def falling(self, rows=None):
        evaluation = score(self, rows)
        evaluation.figures["AP"] = 0.5 - 0.01 * abs(self.state.global_step - 2)
        return evaluation

    monkeypatch.setattr(DetectionTrainer, "score", falling)


EARLY = ["--max_steps", "12", "--eval_steps", "1", "--save_steps", "1", "--early_stopping_patience", "3"]
EARLY += ["--ema_decay", "0.9", "--gradient_accumulation_steps", "2"]


def test_early_stopping(recipe, tmp_path, never_better):
    """
    Best at step 2, patience 3: the run ends after step 5 with the best average, also if it was cut off before, after
    the evaluation that ended it, or between that evaluation's step and the evaluation. With EMA and accumulation.
    """

    def options(folder: Path, *more: str):
        return parse_options([str(part) for part in (recipe, *EARLY, "--output_dir", folder, *more)])

    unbroken = tmp_path / "unbroken"
    train(prepare(options(unbroken)))
    assert [line["step"] for line in lines(unbroken / "evaluation.jsonl")] == [1, 2, 3, 4, 5]
    root, best = (load_file(path / "model.safetensors") for path in (unbroken, unbroken / "checkpoint-2" / "ema"))
    assert all(torch.equal(root[name], best[name]) for name in best)

    for moment in ("before", "at the end", "evaluation due"):
        folder = tmp_path / moment
        shutil.copytree(unbroken, folder)
        for name in ("model.safetensors", "config.json", "figures.json", "README.md"):
            (folder / name).unlink()
        if moment == "before":
            shutil.rmtree(folder / "checkpoint-5")
        if moment == "evaluation due":
            state, former = (folder / f"checkpoint-{step}" / "trainer_state.json" for step in (5, 4))
            state.write_text(former.read_text().replace('"global_step": 4', '"global_step": 5'))
            (folder / "checkpoint-5" / "evaluation_due").touch()
        train(prepare(options(folder, "--resume_from_checkpoint", "latest")))
        assert max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")) == 5, moment
        resumed = load_file(folder / "model.safetensors")
        assert all(torch.equal(resumed[name], root[name]) for name in root), moment
        last = [load_file(path / "checkpoint-5" / "model.safetensors") for path in (folder, unbroken)]
        assert all(torch.equal(last[0][name], last[1][name]) for name in last[1]), moment

    trainer = prepare(options(unbroken, "--early_stopping_patience", "5", "--resume_from_checkpoint", "latest"))
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    assert trainer.state.global_step == 7  # who asks for more patience gets it
    for bad, message in ((["--early_stopping_patience", "0"], "at least 1"), ([*SHORT], "needs evaluations")):
        with pytest.raises(ValueError, match=message):
            options(tmp_path / "bad", *bad)


@pytest.mark.parametrize("muon", ["false", "true"])
def test_accumulation_averages_and_resume(muon, recipe, tmp_path):
    """bf16, two accumulated batches, a moving average: resumed after step 2, the rest is the unbroken run's."""
    options = [recipe, "--bf16", "--gradient_accumulation_steps", "2", "--ema_decay", "0.9", "--gradient_checkpointing"]
    options += ["--muon", muon]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(prepare(parse_options([str(part) for part in [*options, "--output_dir", whole]])))
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoint-4")
    (resumed / "config.json").unlink()
    options += ["--output_dir", resumed, "--resume_from_checkpoint", "latest"]
    train(prepare(parse_options([str(part) for part in options])))
    for name in ("model.safetensors", "checkpoint-4/model.safetensors", "checkpoint-4/ema/model.safetensors"):
        actual, expected = load_file(resumed / name), load_file(whole / name)
        assert all(torch.equal(actual[key], expected[key]) for key in expected), name
    evaluations = [[line["ema_AP"] for line in lines(folder / "evaluation.jsonl")] for folder in (resumed, whole)]
    assert evaluations[0] == evaluations[1]
