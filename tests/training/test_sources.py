"""A run on several sources: drawn by weight, resumed where it was, measured on each, and described."""

import json
import shutil

import numpy as np
import pytest
import yaml
from helpers.launching import RECIPE, lines
from helpers.scenes import write_scenes
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from dino_detr.cli import main
from dino_detr.runs.names import FIGURES
from dino_detr.training import parse_options, prepare, train

STEPS = ["--max_steps", "5", "--save_steps", "1", "--eval_steps", "5", "--save_total_limit", "9"]
STEPS += ["--load_best_model_at_end", "false"]


@pytest.fixture(scope="module")
def sources(data, tmp_path_factory):
    """Digits told apart, and digits that are all one class: image and category ids of one are those of the other."""
    folder = tmp_path_factory.mktemp("sources") / "alike"
    write_scenes(folder, {"train": 5, "val": 4}, one_class=True)
    return [str(data), str(folder)]


@pytest.fixture(scope="module")
def two(sources, tmp_path_factory):
    """A recipe of both."""
    path = tmp_path_factory.mktemp("recipes") / "two.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "dataset": sources, "dataset_weights": [1, 3]}))
    return path


@pytest.fixture(scope="module")
def trained(two, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "two"
    return folder, train(prepare(parse_options([str(two), *STEPS, "--output_dir", str(folder)])))


def test_a_run_resumes_in_the_middle_of_an_epoch(two, trained, tmp_path):
    """An epoch has 9 + 3 * 5 images and four of them a step. Weights, losses and figures are the same to the bit."""
    whole, _ = trained
    expected, metrics = load_file(whole / "model.safetensors"), lines(whole / "metrics.jsonl")
    assert metrics[2]["epoch"] == pytest.approx(3 / 6)
    for step in (1, 3):
        again = tmp_path / str(step)
        resume = ["--resume_from_checkpoint", str(whole / f"checkpoint-{step}")]
        train(prepare(parse_options([str(two), *STEPS, "--output_dir", str(again), *resume])))
        weights = load_file(again / "model.safetensors")
        assert all(expected[name].equal(weights[name]) for name in expected)
        assert [line["loss"] for line in lines(again / "metrics.jsonl")] == [line["loss"] for line in metrics[step:]]


def test_figures_of_a_source_are_those_of_evaluating_it_alone(trained, sources, tmp_path, capsys):
    folder, figures = trained
    main(["evaluate", str(folder), "--dataset", *sources, "--output", str(tmp_path / "all.json"), "--device", "cpu"])
    assert "\nSource" in capsys.readouterr().out
    together = json.loads((tmp_path / "all.json").read_text())
    (evaluated,) = lines(folder / "evaluation.jsonl")
    names = list(figures["per_source"])
    assert names == [source.rpartition("/")[2] for source in sources]
    for source, name in zip(sources, names):
        output = tmp_path / f"{name}.json"
        main(["evaluate", str(folder), "--dataset", source, "--output", str(output), "--device", "cpu"])
        alone = json.loads(output.read_text())
        for figure in FIGURES:
            assert alone[figure] == pytest.approx(figures["per_source"][name][figure], rel=1e-4)
            assert alone[figure] == pytest.approx(together["per_source"][name][figure], rel=1e-4)
        assert evaluated[f"AP/{name}"] == figures["per_source"][name]["AP"]
    assert together["AP"] == pytest.approx(figures["AP"], rel=1e-4) and evaluated["AP"] == figures["AP"]
    assert len({figures["AP"], *(each["AP"] for each in figures["per_source"].values())}) == 3


def test_predictions_have_the_ids_of_their_data_set(trained, sources, tmp_path):
    folder, figures = trained
    found = tmp_path / "found.json"
    main(["evaluate", str(folder), "--dataset", sources[1], "--predictions", str(found), "--device", "cpu"])
    assert {entry["category_id"] for entry in json.loads(found.read_text())} == {7}
    main(["evaluate", str(found), "--dataset", sources[1], "--output", str(tmp_path / "figures.json")])
    again = json.loads((tmp_path / "figures.json").read_text())
    assert again["AP"] == pytest.approx(figures["per_source"]["alike"]["AP"], rel=1e-4)


def test_the_run_folder_says_what_it_was_trained_on(trained, sources, data):
    folder, _ = trained
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["dataset"] == sources
    report = (folder / "data_report.txt").read_text()
    assert f"2 sources, their classes joined by name: {data.name} (9 images, 10 classes), alike (5 images, 1" in report
    assert "alike has no class digit 0, digit 1" in report
    card = ModelCard.load(folder / "README.md")
    assert f"trained on `{data.name}` (its author's own files) and `alike` (its author's own files)." in card.text
    assert "an image of theirs came 1.0, 3.0 times an epoch" in card.text and str(data.parent) not in card.content
    measured = {(result.dataset_name, result.metric_type) for result in card.data.eval_results}
    assert {(name, "box AP50") for name in (data.name, "alike", f"{data.name} + alike")} <= measured
    recipe = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    assert recipe["dataset"] == [data.name, "alike"]
    assert (folder / "report" / "report.html").exists()


def test_sources_of_the_hub_are_linked(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["local_paths"] == ["dataset[0]", "dataset[1]"]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    changed = recipe | {"dataset": ["user/cells:small", recipe["dataset"][1]]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(changed))
    (folder / "environment.json").write_text(json.dumps(environment | {"local_paths": ["dataset[1]"]}))
    main(["card", str(folder)])
    card = ModelCard.load(folder / "README.md")
    assert card.data.datasets == ["user/cells"]
    assert "trained on `user/cells:small` and `alike` (its author's own files)." in card.text


def test_a_list_of_one_is_that_one(recipe, data, tmp_path):
    options = parse_options([str(recipe), "--dataset", str(data), "--output_dir", str(tmp_path)])
    values = yaml.safe_load(recipe.read_text())
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(values | {"dataset": [str(data)]}))
    listed = parse_options([str(tmp_path / "list.yaml"), "--output_dir", str(tmp_path)])
    assert listed.dataset == options.dataset == str(data) and listed.recipe == options.recipe


def test_weights_go_with_the_sources_they_were_given_for(two, sources, tmp_path):
    options = parse_options([str(two), "--dataset", "digits", sources[0], "--output_dir", str(tmp_path)])
    assert options.dataset_weights is None and "dataset_weights" not in options.recipe


def test_bad_sources_are_refused_in_a_sentence(two, sources, tmp_path):
    first, second = sources

    def refused(said, *words, kind=ValueError):
        with pytest.raises(kind) as error:
            prepare(parse_options([str(two), "--output_dir", str(tmp_path / "run"), *words]))
        assert said in str(error.value) and "\n" not in str(error.value)

    refused("dataset_weights has 1 numbers and dataset 2 sources: give one for each", "--dataset_weights", "1")
    for wrong in ("0", "-1", "nan"):
        refused(f"dataset_weights={float(wrong)} must be above 0", "--dataset_weights", "1", wrong)
    refused("dataset_weights has no effect here: see dataset", "--dataset", first, "--dataset_weights", "1")
    refused(f"{first} is twice among the data sets", "--dataset", first, second, first)
    write_scenes(tmp_path / "other", {"val": 2})
    other = str(tmp_path / "other")
    refused(f"{other} has no split 'train'; it has val", "--dataset", first, other, kind=FileNotFoundError)


def test_the_check_says_what_would_be_joined(sources, capsys):
    main(["check-data", *sources])
    said = capsys.readouterr().out
    assert f"{sources[1]}, val: 4 of 4 images" in said
    for split in ("train", "val"):
        assert f"\n{split}: 2 sources, their classes joined by name" in said
    assert said.rstrip().endswith("training will use them as they are")


def test_samples_of_several_sources_are_drawn(sources, tmp_path):
    main(["check-data", *sources, "--show", "12", "--output", str(tmp_path / "samples.png")])
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_the_order_has_all_sources_mixed(two, tmp_path):
    trainer = prepare(parse_options([str(two), "--output_dir", str(tmp_path / "run")]))
    order = np.array(list(trainer._get_train_sampler())) % 14
    assert len(order) == 24 and set(order) == set(range(14))
    assert (order[:12] >= 9).any() and (order[:12] < 9).any()
