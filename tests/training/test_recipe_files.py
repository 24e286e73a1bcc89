"""Recipes as files and command lines: what is no recipe, numbers as text, names that other trainers use."""

import pickle
from pathlib import Path

import pytest
import yaml
from helpers.launching import RECIPE

from dino_detr.training import DinoDetrTrainingArguments, parse_options, prepare
from dino_detr.training.recipe import read_recipe


@pytest.mark.parametrize(
    "content, said",
    [
        (b"dataset: [a, b\nmax_steps: 4\n", r"r\.yaml is not YAML: line 2, column 10: "),
        (b"dataset: a: b\n", r"r\.yaml is not YAML: line 1, column 11: "),
        (b"dataset: a\n\tmax_steps: 4\n", r"r\.yaml is not YAML: line 2, column 1: "),
        (b"max_steps: 4\nseed: 1\nmax_steps: 5\n", r"max_steps is given twice, in lines 1 and 3"),
        (b"model_config:\n  d_model: 4\n  d_model: 5\n", r"d_model is given twice, in lines 2 and 3"),
        (b"dataset: !!python/object:os.system a\n", r"not YAML: line 1, column 10: could not determine a constructor"),
        (b"a: 1\n---\nb: 2\n", r"not YAML: line 2, column 1: but found another document"),
        (b"- dataset\n", r"r\.yaml: a recipe is a mapping of options to values"),
        (b"dataset\n", r"a recipe is a mapping of options to values"),
        (b"\xff\xfed\x00a\x00", r"r\.yaml is not text in UTF-8 \(byte 0\): a recipe is a YAML file"),
        (b"dataset: caf\xe9\n", r"r\.yaml is not text in UTF-8 \(byte 12\)"),
        (b"\x89PNG\r\n\x1a\n\x00", r"r\.yaml is not text in UTF-8"),
        (b"1: 2\n", r"r\.yaml: unknown option 1"),
        (b"learning_rate: fast\n", r"r\.yaml: learning_rate: 'fast' is not a number"),
        (b"learning_rate: true\n", r"r\.yaml: learning_rate: true is not a number"),
        (b"learning_rate:\n", r"r\.yaml: learning_rate: it has no value"),
        (b"max_steps: 4.5\n", r"r\.yaml: max_steps: 4\.5 is not a whole number"),
        (b"image_sizes: [64, big]\n", r"r\.yaml: image_sizes: \['?64'?, 'big'\] is not a list of whole numbers"),
        (b"freeze_backbone: maybe\n", r"r\.yaml: freeze_backbone: 'maybe' is not true or false"),
        (b"model_config: 3\n", r"r\.yaml: model_config: 3 is not a mapping"),
        (b"eval_strategy: sometimes\n", r"eval_strategy: 'sometimes' is not one of no, steps, epoch"),
        (b"backbone: [a]\n", r"backbone: \['a'\] is not text"),
    ],
)
def test_what_is_no_recipe_is_said_in_one_line(tmp_path, content, said):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        parse_options([str(tmp_path / "r.yaml")])
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(OSError, match="is a folder, not a recipe"):
        parse_options([str(tmp_path)])
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(ValueError, match="say what to train"):
        parse_options([str(tmp_path / "empty.yaml")])


def test_numbers_and_truth_are_read_as_yaml_1_2_has_them(tmp_path):
    """YAML 1.1 makes text of `1e-4`, and truth of `no`."""
    text = (
        "a: 1e-4\nb: 1E3\nc: no\nd: on\ne: true\nf: 010\ng: 2024-01-02\nh: .inf\ni: ~\nj: 1:30\nk: -.5\nl: '1'\nm: 5.\n"
    )
    (tmp_path / "r.yaml").write_text("\ufeff" + text, encoding="utf-8")
    assert read_recipe(tmp_path / "r.yaml") == {
        "a": 1e-4, "b": 1e3, "c": "no", "d": "on", "e": True, "f": 10, "g": "2024-01-02", "h": float("inf"), "i": None,
        "j": "1:30", "k": -0.5, "l": "1", "m": 5.0,
    }  # fmt: skip


def write(folder: Path, **values) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"dataset": "digits", **RECIPE, **values}), encoding="utf-8")
    return str(path)


def test_values_may_be_text(tmp_path):
    values = {"learning_rate": "1e-4", "max_steps": "8", "image_sizes": "64", "freeze_backbone": "yes", "seed": 7.0}
    values |= {"lr_decay_steps": ["0.5", 6], "eval_strategy": False, "load_best_model_at_end": "off"}
    values["save_strategy"] = "no"
    recipe = {k: v for k, v in RECIPE.items() if k not in ("eval_steps", "save_steps")}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"dataset": "digits", **recipe, **values}), encoding="utf-8")
    options = parse_options([str(path)])
    assert (options.learning_rate, options.max_steps, options.image_sizes) == (1e-4, 8, [64])
    assert (options.freeze_backbone, options.seed, options.lr_decay_steps) == (True, 7, [0.5, 6.0])
    assert (options.eval_strategy.value, options.load_best_model_at_end) == ("no", False)


@pytest.mark.parametrize(
    "written, read",
    [("2", 2), ("true", True), ("yes", True), ("1", 1), ("0", 0), ("no", False), ("'2'", 2), ("2.0", 2)],
)
def test_a_number_of_frozen_stages_is_no_switch(tmp_path, written, read):
    path = tmp_path / "recipe.yaml"
    path.write_text(Path(write(tmp_path)).read_text().replace("freeze_backbone: false", f"freeze_backbone: {written}"))
    said = [["--freeze_backbone", written.strip("'")], [f"--freeze_backbone={written.strip(chr(39))}"]]
    for options in (parse_options([str(path)]), *(parse_options([write(tmp_path), *words]) for words in said)):
        assert options.freeze_backbone == read and isinstance(options.freeze_backbone, type(read))
        assert options.recipe["freeze_backbone"] == read


def test_the_command_line_is_read_as_written(tmp_path):
    path = write(tmp_path)
    options = parse_options(
        [path, "--image-sizes", "64", "72", "--lr_decay_steps=0.5,0.8", "--freeze_backbone",
         "--no_load_best_model_at_end", "--seed", "1", "--seed", "2", "--model_config",
         '{"backbone_config": {"patch_size": 16}}', "--max_steps=5"]
    )  # fmt: skip
    assert (options.image_sizes, options.lr_decay_steps, options.seed) == ([64, 72], [0.5, 0.8], 2)
    assert (options.freeze_backbone, options.load_best_model_at_end, options.max_steps) == (True, False, 5)
    assert options.model_config == {"backbone_config": {"patch_size": 16}}
    for arguments, said in [
        (["epochs=3"], "'epochs=3' is no option; they are written --name value"),
        (["-b", "4"], "'-b' is no option"),
        (["--freeze_backbone", "1.5"], "freeze_backbone: '1.5' is not true or false or a whole number"),
        (["--seed"], "command line: seed needs a value"),
        (["--seed", "1", "2"], r"seed: \['1', '2'\] is not a whole number"),
        (["--model_config", "{'a': 1}"], "model_config: .* is not JSON"),
    ]:
        with pytest.raises(ValueError, match=said):
            parse_options([path, *arguments])


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("epochs", "num_train_epochs"), ("lr", "learning_rate"), ("lr0", "learning_rate"),
        ("batch", "total_batch_size"),
        ("batch_size", "total_batch_size"), ("batch-size", "total_batch_size"), ("imgsz", "image_sizes"),
        ("device", "use_cpu"), ("device", "CUDA_VISIBLE_DEVICES"), ("workers", "dataloader_num_workers"),
        ("data", "dataset"), ("name", "output_dir"), ("weights", "model"), ("resume", "resume_from_checkpoint"),
        ("patience", "early_stopping_patience"), ("iterations", "max_steps"), ("max_iter", "max_steps"),
        ("work-dir", "output_dir"), ("amp", "bf16"), ("resolution", "image_sizes"), ("optimizer", "AdamW"),
        ("nc", "the classes are the data set's"), ("exist_ok", "overwrite"), ("warmup_epochs", "warmup_steps"),
        ("grad_accum_steps", "gradient_accumulation_steps"), ("dataset_dir", "dataset"),
        ("evaluation_strategy", "eval_strategy"),
        ("num_querys", "num_queries"), ("config-file", "the recipe comes first"),
    ],
)  # fmt: skip
def test_what_people_type_is_answered_with_our_name(tmp_path, typed, meant):
    with pytest.raises(ValueError, match=r"command line: unknown option") as raised:
        parse_options([write(tmp_path), f"--{typed}", "3"])
    assert meant in str(raised.value) and "\n" not in str(raised.value)


def test_a_trackers_project_is_no_folder(tmp_path):
    with pytest.raises(ValueError, match="project has no effect here: see report_to; the run folder is output_dir"):
        parse_options([write(tmp_path), "--project", "runs/mine"])


def arguments(folder: Path, **values) -> dict:
    return {"output_dir": str(folder / "run"), "dataset": "digits", **RECIPE, **values}


def test_python_goes_through_the_same_door(tmp_path):
    options = DinoDetrTrainingArguments(**arguments(tmp_path, learning_rate="1e-3", image_sizes=64))
    assert options.recipe["learning_rate"] == 1e-3 and options.recipe["image_sizes"] == [64]
    assert options.recipe["output_dir"] == str(tmp_path / "run")
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(options.recipe), encoding="utf-8")
    assert parse_options([str(path)]).to_dict() == options.to_dict()
    assert pickle.loads(pickle.dumps(options)).to_dict() == options.to_dict()
    for wrong, said in [
        ({"data_seed": 3}, "data_seed is an option of transformers that has no effect here"),
        ({"per_device_train_batch_size": 2}, "set total_batch_size; per_device_train_batch_size follows from it"),
        ({"num_train_epochs": 3.0}, "num_train_epochs has no effect here: see max_steps"),
        ({"lr_scheduler_type": "cosine", "lr_decay_steps": [0.5]}, "lr_scheduler_type has no effect here"),
        ({"metric_for_best_model": "loss"}, "metric_for_best_model=loss is not a figure"),
        ({"num_queries": "many"}, "num_queries: 'many' is not a whole number"),
    ]:
        with pytest.raises(ValueError, match=said):
            DinoDetrTrainingArguments(**arguments(tmp_path, **wrong))
    with pytest.raises(ValueError, match=r"warmup_steps=9 is longer than the run of 4 steps"):
        prepare(DinoDetrTrainingArguments(**arguments(tmp_path, warmup_steps=9)))


def test_a_run_made_in_python_leaves_its_recipe(recipe, tmp_path):
    values = arguments(tmp_path, dataset=yaml.safe_load(recipe.read_text())["dataset"], max_steps=1, weight_decay=0.5)
    values |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    values = {name: value for name, value in values.items() if name not in ("eval_steps", "save_steps")}
    prepare(DinoDetrTrainingArguments(**values)).train()
    left = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert left["weight_decay"] == 0.5 and left["max_steps"] == 1 and left["num_queries"] == RECIPE["num_queries"]
