"""Promise 13: a number that is not finite stops the run with its step, term and module, and a dump that replays it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.launching import ROOT, TWO_PROCESSES, lines, run
from helpers.one_bad_process import MODULE
from torch.nn import functional as F

from dino_detr import DinoDetrForObjectDetection
from dino_detr.matching import NonFinitePredictions
from dino_detr.runs.names import REPORT_JSON
from dino_detr.training import parse_options
from dino_detr.training.guards.dump import INPUTS, read_dump, replay, write_dump
from dino_detr.training.guards.nonfinite import NonFinite
from dino_detr.training.guards.trace import find_nonfinite
from dino_detr.training.run import prepare
from dino_detr.training.step import Step, random_state

CPU = torch.device("cpu")
FSDP2 = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes" / "accelerate" / "fsdp2.yaml"]
FSDP2 += ["--num_processes", "2", "--main_process_port", "0"]


@pytest.fixture
def trainer(recipe, tmp_path):
    """With dropout, so that a step depends on the random state."""
    config = parse_options([str(recipe)]).model_config
    config["backbone_config"]["hidden_dropout_prob"] = 0.5
    schedule = ["--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    return prepare(
        parse_options(
            [str(recipe), "--output_dir", str(tmp_path / "run"), "--model_config", json.dumps(config), *schedule]
        )
    )


@pytest.fixture
def step(trainer) -> Step:
    """The first two batches as one step."""
    trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, CPU)
    step = trainer.step
    step.random_state = random_state(CPU)
    trainer.create_optimizer()
    trainer.model.train()
    return step


class Spoil(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


def losses_seen(monkeypatch) -> list[torch.Tensor]:
    """The loss of each forward pass from now on."""
    seen, forward = [], DinoDetrForObjectDetection.forward

    def listening(self, *args, **kwargs):
        outputs = forward(self, *args, **kwargs)
        seen.append(outputs.loss.detach())
        return outputs

    monkeypatch.setattr(DinoDetrForObjectDetection, "forward", listening)
    return seen


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return DinoDetrForObjectDetection.from_pretrained(folder).state_dict()


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_overflow_is_traced_to_its_module_and_replayed(trainer, recipe, data, tmp_path):
    """In processes of their own; the last decoder layer overflows, so that only its terms are spoiled."""
    checkpoint, folder, module = tmp_path / "huge", tmp_path / "out", "model.decoder.layers.1.ffn.fc2"
    torch.nn.init.constant_(trainer.model.get_submodule(module).weight, 3e38)
    trainer.model.save_pretrained(checkpoint)
    output = run(sys.executable, "train.py", recipe, "--model", checkpoint, "--output_dir", folder, expect=1)
    dump = folder / "nonfinite" / "step-1"
    told = [
        "step       1",
        "loss term  loss_class, loss_bbox, loss_giou\n",
        f"module     {module} (Linear), forward:\n             its output is not finite, though its input is",
    ]
    for line in [*told, f"dino-detr replay {dump}", "learning_rate"]:
        assert line in output
    assert "Traceback" not in output
    assert same(weights(dump), weights(checkpoint))
    assert not list(folder.glob("checkpoint-*")) and not (folder / "model.safetensors").exists()
    assert {path.suffix for path in dump.iterdir()} == {".json", ".safetensors", ".py"}  # nothing pickled
    report = json.loads((dump / REPORT_JSON).read_text(), parse_constant=pytest.fail)  # JSON knows no NaN
    ids = {image["id"] for image in json.loads((data / "annotations/instances_train.json").read_text())["images"]}
    assert len(report["image_ids"][0]) == 4 and set(report["image_ids"][0]) <= ids

    output = run(sys.executable, "-m", "dino_detr.cli", "replay", dump, expect=1)
    for line in told:
        assert line in output
    assert "Traceback" not in output


def test_divergence_is_caught_at_the_step_where_it_shows(recipe, tmp_path):
    """A learning rate that is zero in the first step, huge in the second: the third has no loss."""
    options = ["--learning_rate", "1e30", "--warmup_steps", "4", "--save_steps", "1", "--eval_strategy", "no"]
    options += ["--load_best_model_at_end", "false", "--output_dir", tmp_path / "out"]
    output = run(sys.executable, "-m", "dino_detr.cli", "train", recipe, *options, expect=1)
    assert "step       3\n" in output and "Traceback" not in output
    history = lines(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in history] == [1, 2]
    assert all(abs(line[name]) < float("inf") for line in history for name in ("loss", "grad_norm"))
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    dump = tmp_path / "out" / "nonfinite" / "step-3"
    assert same(weights(dump), weights(tmp_path / "out" / "checkpoint-2"))
    assert not same(weights(dump), weights(tmp_path / "out" / "checkpoint-1"))


@pytest.mark.parametrize("launcher", [TWO_PROCESSES, FSDP2], ids=["ddp", "fsdp2"])
def test_both_processes_end_if_the_numbers_of_one_are_bad(recipe, tmp_path, launcher):
    """The one looks at its forward pass, the other at its backward pass too: no shard is waited for."""
    command = [sys.executable, *launcher, "tests/helpers/one_bad_process.py", recipe, "--output_dir", tmp_path / "out"]
    output = run(*command, expect=1, timeout=200)
    assert ("sharded: " in output) == (launcher is FSDP2)
    assert [path.name for path in (tmp_path / "out" / "nonfinite").iterdir()] == ["step-2-rank-1"]
    assert f"module     {MODULE} (Linear), forward" in output
    assert "process 0 stopped too: what is not finite is described by process 1" in output
    assert "trainer.py" not in output  # no traceback of ours
    dump = tmp_path / "out" / "nonfinite" / "step-2-rank-1"
    model, _, report = read_dump(dump, CPU)
    assert report["losses"] == ["nan"] and report["process"] == 1
    assert all(weight.isfinite().all() for weight in model.state_dict().values())


def test_a_gradient_that_is_not_finite_stops_a_run(trainer, monkeypatch):
    """A finite loss; and without what spoils the gradient, the step replayed has the same loss and is finite."""
    linear = trainer.model.model.decoder.layers[0].ffn.fc2
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    monkeypatch.setattr(linear, "forward", lambda x: F.linear(Spoil.apply(x), linear.weight, linear.bias))
    with pytest.raises(NonFinite, match=r"loss term  all are finite\n  module     model.decoder.layers.0.ffn.fc2 \(L"):
        trainer.train()
    dump = Path(trainer.args.output_dir) / "nonfinite" / "step-1"
    report = json.loads((dump / REPORT_JSON).read_text())
    assert (report["direction"], report["gradient_norm"]) == ("backward", "nan")
    assert all(0 < float(loss) < float("inf") for loss in report["losses"])
    assert same(trainer.model.state_dict(), before)
    seen = losses_seen(monkeypatch)
    finite, said = replay(dump, CPU)
    assert [str(loss.item()) for loss in seen] == report["losses"]
    assert finite and "step 1" in said and "is finite when it is run on cpu (fp32)" in said


@pytest.mark.parametrize(
    "where, module, how",
    [
        ("input", "model.decoder.layers.0.ffn.fc1", "the gradient of its input is not finite"),
        ("weight", "model.decoder.layers.0.ffn.fc1", "the gradient of model.decoder.layers.0.ffn.fc1.weight is"),
        ("between", "model.decoder.layers.0.ffn", "that reaches the output of model.decoder.layers.0.ffn.fc1 is"),
        ("memory", "model.decoder.layers.1.encoder_attn.value_proj", "the gradient of its input is not finite"),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_bad_gradients_are_traced(trainer, step, where, module, how, checkpointing):
    """To the module that makes them, be it one of several that take the same tensor, or the code between modules."""
    model = trainer.model
    if checkpointing:
        model.gradient_checkpointing_enable()
    fc1 = model.model.decoder.layers[0].ffn.fc1
    value = model.model.decoder.layers[1].encoder_attn.value_proj
    if where == "input":
        fc1.forward = lambda x: F.linear(Spoil.apply(x), fc1.weight, fc1.bias)
    elif where == "weight":
        fc1.forward = lambda x: F.linear(x, Spoil.apply(fc1.weight), fc1.bias)
    elif where == "between":
        ffn = model.model.decoder.layers[0].ffn
        ffn.forward = lambda x: ffn.fc2(F.relu(Spoil.apply(ffn.fc1(x))))
    else:
        value.forward = lambda x: F.linear(Spoil.apply(x), value.weight, value.bias)
    finding = find_nonfinite(model, step, "fp32")
    assert (finding.direction, finding.module, finding.terms) == ("backward", module, [])
    assert how in finding.how
    assert find_nonfinite(model, step, "fp16") is None  # the scaler's affair


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bad_values_are_traced_forward(trainer, step, precision):
    model = trainer.model
    assert find_nonfinite(model, step, precision) is None
    ffn = model.model.encoder.layers[0].ffn
    ffn.forward = lambda x: ffn.fc2(ffn.fc1(x) / 0)
    finding = find_nonfinite(model, step, precision)
    assert (finding.direction, finding.module) == ("forward", "model.encoder.layers.0.ffn")
    assert finding.how.startswith("what it gives to model.encoder.layers.0.ffn.fc2 is not finite")
    assert finding.terms[0] == "loss_class_enc"
    del ffn.forward
    torch.nn.init.constant_(model.model.level_embed, torch.inf)
    torch.nn.init.zeros_(model.model.query_embed.weight)
    finding = find_nonfinite(model, step, precision)
    assert (finding.module, finding.weights) == ("model", ["model.level_embed"])
    with pytest.raises(NonFinitePredictions):
        step.forward(model, model.config, step.batches[0])


def test_fp16_leaves_gradients_to_its_scaler(trainer, step):
    def check(gradient_norm: float) -> None:
        trainer.finite_check.check(step, torch.tensor(gradient_norm), trainer.model, trainer.optimizer)

    step.losses = [torch.tensor(1.0)]
    with pytest.raises(NonFinite, match="unknown: the step is finite when it is run again"):
        check(torch.nan)
    trainer.args.fp16 = True
    check(torch.nan)
    step.losses.append(torch.tensor(torch.inf))
    with pytest.raises(NonFinite, match="bf16 instead of fp16"):
        check(1.0)


def test_a_dump_is_the_step(trainer, step, tmp_path, monkeypatch):
    """Bit for bit, noise and dropout included; it is whole or refused, and never written over."""
    report = {"step": 7, "process": 0, "processes": 1, "most_boxes": step.max_boxes, "gradient_checkpointing": False}
    dumps = [write_dump(tmp_path, trainer.model, step, report) for _ in range(2)]
    assert [dump.name for dump in dumps] == ["step-7", "step-7-2"]
    assert not list((tmp_path / "nonfinite").glob(".*"))

    seen = losses_seen(monkeypatch)

    def losses(model, step):
        seen.clear()
        assert find_nonfinite(model, step, "fp32") is None
        return torch.stack(seen)

    expected = losses(trainer.model, step)
    model, restored, _ = read_dump(dumps[1], CPU)
    assert torch.equal(losses(model, restored), expected)
    restored.random_state["cpu"] = torch.Generator().manual_seed(1).get_state()
    assert not torch.equal(losses(model, restored), expected)
    restored.random_state = step.random_state
    restored.batches[0]["noise_seeds"][0] += 1
    assert not torch.equal(losses(model, restored), expected)

    content = (dumps[0] / INPUTS).read_bytes()
    (dumps[0] / INPUTS).write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"step-7/inputs\.safetensors is damaged"):
        replay(dumps[0], CPU)
    (dumps[0] / REPORT_JSON).unlink()
    with pytest.raises(ValueError, match=r"step-7 is not a whole dump of a step: it has no report\.json"):
        replay(dumps[0], CPU)


def test_a_dump_that_cannot_be_written_hides_nothing(trainer, step):
    folder = Path(trainer.args.output_dir)
    (folder / "nonfinite").write_text("in the way")
    step.losses = [torch.tensor(torch.nan)]
    with pytest.raises(NonFinite, match=r"step       1\n(.*\n)+  dump       could not be written: .*nonfinite"):
        trainer.finite_check.check(step, torch.tensor(1.0), trainer.model, trainer.optimizer)
    assert (folder / "nonfinite").read_text() == "in the way"
