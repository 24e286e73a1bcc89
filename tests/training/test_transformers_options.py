"""Every option of transformers does something here, is refused, or is handed on for a reason that is written down."""

from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments
from transformers.utils import logging

from dino_detr.evaluation.evaluate import Evaluation
from dino_detr.runs.names import FIGURES
from dino_detr.training import DinoDetrTrainingArguments, parse_options, prepare
from dino_detr.training.option_names import REFUSED
from dino_detr.training.trainer import DetectionTrainer

WORKER = ["--dataloader_num_workers", "1"]
COSINE = ["--lr_scheduler_type", "cosine_with_restarts"]

# Seen before the first step: the flipped value, and what both runs are given besides.
FLIPS = {
    "adam_beta1": ("0.5", []),
    "adam_beta2": ("0.5", []),
    "adam_epsilon": ("1e-3", []),
    "dataloader_drop_last": ("true", []),
    "dataloader_in_order": ("false", WORKER),
    "dataloader_multiprocessing_context": ("spawn", WORKER),
    "dataloader_num_workers": ("1", []),
    "dataloader_persistent_workers": ("true", WORKER),
    "dataloader_prefetch_factor": ("5", WORKER),
    "disable_tqdm": ("true", []),
    "gradient_accumulation_steps": ("2", []),
    "learning_rate": ("3e-3", []),
    "log_level": ("error", []),
    "lr_scheduler_kwargs": ('{"num_cycles": 2}', COSINE),
    "lr_scheduler_type": ("linear", []),
    "max_steps": ("3", []),
    "num_train_epochs": ("5", []),
    "output_dir": ("OTHER", []),
    "per_device_eval_batch_size": ("3", []),
    "run_name": ("mine", []),
    "seed": ("7", []),
    "warmup_steps": ("3", []),
    "weight_decay": ("0.3", []),
}
# Seen in four steps of training.
STEPS = {
    "eval_delay": ["3"],
    "eval_on_start": ["true"],
    "eval_steps": ["2", "--save_steps", "2"],
    "eval_strategy": ["no", "--load_best_model_at_end", "false"],
    "load_best_model_at_end": ["false"],
    "logging_first_step": ["true", "--logging_steps", "3"],
    "logging_steps": ["2"],
    "logging_strategy": ["no"],
    "max_grad_norm": ["1e-9"],
    "metric_for_best_model": ["APs"],
    "save_only_model": ["true"],
    "save_steps": ["4"],
    "save_strategy": ["best"],
    "save_total_limit": ["2"],
}
ELSEWHERE = {
    "bf16": "test_precision.py",
    "ddp_find_unused_parameters": "test_training.py",
    "fp16": "test_precision.py",
    "gradient_checkpointing": "test_precision.py",
    "hub_always_push": "test_hub.py",
    "hub_model_id": "test_hub.py",
    "hub_private_repo": "test_hub.py",
    "hub_strategy": "test_hub.py",
    "push_to_hub": "test_hub.py",
    "report_to": "test_training.py",
    "resume_from_checkpoint": "test_nothing_lost.py",
    "torch_compile": "test_compilation.py",
}
CHECKED = {  # one value is right
    "greater_is_better": ["--greater_is_better", "false"],
    "optim": ["--optim", "adamw_torch"],
    "per_device_train_batch_size": ["--per_device_train_batch_size", "4"],
    "remove_unused_columns": ["--remove_unused_columns", "true"],
}
PASSED_THROUGH = {
    "activation_checkpointing": "gradient_checkpointing under the name of newer versions",
    "activation_checkpointing_kwargs": "torch.utils.checkpoint's",
    "dataloader_pin_memory": "of GPUs",
    "ddp_backend": "torch.distributed's",
    "ddp_broadcast_buffers": "torch.distributed's",
    "ddp_bucket_cap_mb": "torch.distributed's",
    "ddp_static_graph": "torch.distributed's",
    "ddp_timeout": "torch.distributed's",
    "debug": "transformers' own search for overflow",
    "full_determinism": "torch's switches for GPUs",
    "gradient_checkpointing_kwargs": "torch.utils.checkpoint's",
    "hub_token": "the Hub's",
    "ignore_data_skip": "transformers' way to resume with other data",
    "local_rank": "set by launchers",
    "log_level_replica": "of the processes that are not the first",
    "log_on_each_node": "of several machines",
    "project": "the tracker's",
    "restore_callback_states_from_checkpoint": "of callbacks that a script adds",
    "tf32": "a switch of GPUs",
    "torch_compile_backend": "torch.compile's",
    "torch_compile_mode": "torch.compile's",
    "torch_empty_cache_steps": "of GPUs",
    "trackio_bucket_id": "the tracker's",
    "trackio_space_id": "the tracker's",
    "trackio_static_space_id": "the tracker's",
    "use_cpu": "which device is taken; only one is here",
}


TESTS = Path(__file__).parent.parent


def test_every_option_of_transformers_is_accounted_for():
    classes = (FLIPS, STEPS, ELSEWHERE, CHECKED, PASSED_THROUGH, REFUSED)
    names = {f.name for f in fields(TrainingArguments) if f.init}
    assert sorted(names - set().union(*classes)) == []
    assert [name for name in names if sum(name in known for known in classes) > 1] == []
    for name, test in ELSEWHERE.items():
        assert name in next(TESTS.rglob(test)).read_text(encoding="utf-8"), (name, test)


def seen_before_training(options) -> dict:
    verbosity = logging.get_verbosity()
    trainer = prepare(options)
    told = logging.get_verbosity()
    logging.set_verbosity(verbosity)
    trainer.create_optimizer_and_scheduler(4)
    loader = trainer.get_train_dataloader()
    loader = getattr(loader, "base_dataloader", loader)
    batch_sizes = []

    def look(*args, batch_size, **kwargs):
        batch_sizes.append(batch_size)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("dino_detr.training.trainer.evaluate", look)
        trainer.evaluate()
    optimizer, schedule, rates = trainer.optimizer, trainer.lr_scheduler, []
    for _ in range(4):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    names = ("lr", "initial_lr", "weight_decay", "betas", "eps")
    return {
        "groups": [[group.get(name) for name in names] for group in optimizer.param_groups],
        "rates": rates,
        "loader": [
            (name, str(getattr(loader, name)))
            for name in ("num_workers", "prefetch_factor", "pin_memory", "persistent_workers", "in_order", "drop_last")
        ],
        "context": type(loader.multiprocessing_context).__name__,
        "batches": len(trainer.get_train_dataloader()),
        "batch": trainer.args.per_device_train_batch_size,
        "evaluated": batch_sizes,
        "length": (options.max_steps, options.num_train_epochs),
        "folder": options.output_dir,
        "bar": sorted(type(callback).__name__ for callback in trainer.callback_handler.callbacks),
        "level": told,
        "name": options.run_name,
        "images": trainer.train_dataset[0]["image"].sum().item(),
        "device": str(options.device),
    }


@pytest.fixture(scope="module")
def seen_unflipped(tmp_path_factory):
    """The folder of every run that is not flipped, and what was seen of them by what they were given besides."""
    return str(tmp_path_factory.mktemp("unflipped")), {}


@pytest.mark.parametrize("name", sorted(FLIPS))
def test_it_is_seen_before_the_first_step(recipe, tmp_path, seen_unflipped, name):
    folder, seen = seen_unflipped
    value, besides = FLIPS[name]
    words = [str(recipe), "--output_dir", folder, *besides]
    if tuple(besides) not in seen:
        seen[tuple(besides)] = seen_before_training(parse_options(words))
    value = str(tmp_path / "other") if value == "OTHER" else value
    assert seen_before_training(parse_options([*words, f"--{name}", value])) != seen[tuple(besides)]


@pytest.fixture
def scored(monkeypatch):
    """Figures that need no evaluation: the second is the best by AP, the first by every other."""

    def score(self, rows=None):
        step = self.state.global_step
        figures = {figure: 0.9 - step / 10 for figure in FIGURES} | {"AP": 0.5 - abs(step - 3) / 10, "per_class": {}}
        return Evaluation(figures, self.eval_dataset, [], [])

    monkeypatch.setattr(DetectionTrainer, "score", score)
    monkeypatch.setattr("dino_detr.training.run_folder.draw_plots", lambda folder: None)


EVERY = {"logging_steps": 1, "eval_steps": 1, "save_steps": 1, "save_total_limit": 9}


def seen_in_training(recipe, folder, name=None) -> tuple:
    values = {**EVERY, **({name: None} if name else {})}
    if name and name.endswith("_strategy"):
        values.pop(name.replace("_strategy", "_steps"), None)
    arguments = [str(word) for key, value in values.items() if key != name for word in (f"--{key}", value)]
    arguments += [f"--{name}", *STEPS[name]] if name else []
    trainer = prepare(parse_options([str(recipe), *arguments, "--output_dir", str(folder)]))
    trainer.train()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    lines = [[line["step"], line.get("loss"), line.get("eval_AP")] for line in trainer.state.log_history]
    weights = sum(parameter.double().sum().item() for parameter in trainer.model.parameters())
    return files, lines, weights, trainer.state.best_global_step


@pytest.fixture(scope="module")
def unflipped():
    return []


@pytest.mark.parametrize("name", sorted(STEPS))
def test_it_is_seen_in_training(recipe, tmp_path, scored, unflipped, name):
    if not unflipped:
        unflipped.append(seen_in_training(recipe, tmp_path / "base"))
    assert seen_in_training(recipe, tmp_path / "run", name) != unflipped[0]


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_another_value_is_refused(recipe, name):
    with pytest.raises(ValueError, match=name):
        parse_options([str(recipe), *CHECKED[name]])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_without_effect_it_is_refused(recipe, tmp_path, name):
    with pytest.raises(ValueError, match=f"command line: {name} is an option of transformers that has no effect here"):
        parse_options([str(recipe), f"--{name}", "1"])
    if name in {f.name for f in fields(TrainingArguments)}:
        with pytest.raises(ValueError, match=f"{name} is an option of transformers that has no effect here"):
            DinoDetrTrainingArguments(str(tmp_path), dataset="digits", backbone="x", **{name: None})
