"""A run from recipe to run folder, as a user starts it: in processes of its own, one or two."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.launching import TWO_PROCESSES, lines, run
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dino_detr import DinoDetrForObjectDetection
from dino_detr.evaluation import score_results
from dino_detr.hub import load_reference_checkpoint
from dino_detr.training import parse_options


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    run(sys.executable, "train.py", recipe, "--output_dir", folder)
    return folder


def test_run_folder(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "recipe.yaml"}
    assert names >= {"environment.json", "metrics.jsonl", "evaluation.jsonl", "plots", "checkpoint-4"}
    assert {path.name for path in (finished / "plots").iterdir()} >= {"box_ap.png", "loss.png", "detections.png"}
    report = json.loads((finished / "report" / "report.json").read_text())
    assert (finished / "report" / "report.html").exists() and report["evaluated"]["checkpoint"] == str(finished)
    figures = json.loads((finished / "figures.json").read_text())
    assert {name: figures[name] for name in report["figures"]} == report["figures"]
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]  # nothing pickled at the root

    metrics = lines(finished / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    expected = {"epoch", "loss", "loss_class", "loss_giou_dn_0", "learning_rate", "learning_rate_backbone"}
    assert set(metrics[0]) >= expected | {"seconds_per_step", "data_wait_share", "peak_memory_mib", "grad_norm"}
    weights = {"loss_class": 1, "loss_bbox": 5, "loss_giou": 2}
    for line in metrics:
        parts = sum(weights["_".join(k.split("_")[:2])] * v for k, v in line.items() if k.startswith("loss_"))
        assert line["loss"] == pytest.approx(parts, rel=1e-3)
    evaluations = lines(finished / "evaluation.jsonl")
    assert [line["step"] for line in evaluations][:2] == [2, 4]
    assert set(evaluations[0]) >= {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARl"}


def test_root_holds_the_best_weights(finished):
    history = lines(finished / "evaluation.jsonl")[:2]
    best = max(history, key=lambda line: line["AP"])  # the first of equals, as the Trainer keeps
    root = load_file(finished / "model.safetensors")
    kept = load_file(finished / f"checkpoint-{best['step']}" / "model.safetensors")
    assert set(root) == set(kept)
    assert all(torch.equal(root[name], kept[name]) for name in root)
    config = json.loads((finished / "config.json").read_text())
    assert config["category_ids"] == [3 * digit + 2 for digit in range(10)]
    assert config["id2label"]["7"] == "digit 7"
    assert "use_cache" not in config  # transformers' Trainer puts it there, and every load would warn of it


def test_evaluate_gives_the_recorded_figures(finished, data, tmp_path):
    """Of the checkpoint, and of the results file it writes, scored against the annotation file itself."""
    figures, results = tmp_path / "figures.json", tmp_path / "results.json"
    command = [sys.executable, "-m", "dino_detr.cli", "evaluate"]
    output = run(*command, finished, "--dataset", data, "--output", figures, "--predictions", results)
    assert "Average precision" in output
    best = max(lines(finished / "evaluation.jsonl"), key=lambda line: line["AP"])
    from_checkpoint = json.loads(figures.read_text())
    for name in ("AP", "AP50", "AR100", "ARs"):
        assert from_checkpoint[name] == pytest.approx(best[name], abs=1e-6)

    annotations = json.loads((data / "annotations" / "instances_val.json").read_text())
    rows = json.loads(results.read_text())
    assert {row["category_id"] for row in rows} <= {category["id"] for category in annotations["categories"]}
    assert score_results(rows, annotations)["AR100"] == pytest.approx(best["AR100"], abs=1e-4)
    run(
        *command, results, "--dataset", data / "annotations" / "instances_val.json", "--output", tmp_path / "again.json"
    )
    assert json.loads((tmp_path / "again.json").read_text())["AR100"] == pytest.approx(best["AR100"], abs=1e-4)


def test_predict(finished, data, tmp_path):
    command = [sys.executable, "-m", "dino_detr.cli", "predict", finished, data / "val", "--threshold", "0.01"]
    run(*command, "--output", tmp_path / "out")
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(entry["image"]).name for entry in entries] == sorted(p.name for p in (data / "val").iterdir())
    for entry in entries:
        assert (tmp_path / "out" / entry["picture"]).exists()
        for detection in entry["detections"]:
            x1, y1, x2, y2 = detection["box"]
            assert 0 <= x1 < x2 <= entry["width"] and 0 <= y1 < y2 <= entry["height"]
            assert detection["category_id"] == 3 * int(detection["label"].removeprefix("digit ")) + 2
    assert "holds detections already" in run(*command, "--output", tmp_path / "out", expect=1)


def test_two_processes_evaluate_as_one(recipe, finished, data, tmp_path):
    """Promise 10: `accelerate launch` with 2 processes on CPU (gloo): of 21 images, every one counted once."""
    twenty_one = tmp_path / "data"
    shutil.copytree(data, twenty_one)
    path = twenty_one / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    images = content["images"]
    content["images"] = [image | {"id": image["id"] + copy} for copy in (0, 1000, 2000) for image in images]
    path.write_text(json.dumps(content))
    # a model of four steps finds nothing; what it finds is made the truth, more or less
    command = [sys.executable, "-m", "dino_detr.cli", "evaluate", finished, "--dataset", twenty_one]
    run(*command, "--predictions", tmp_path / "results.json")
    found = {}
    for result in json.loads((tmp_path / "results.json").read_text()):
        found.setdefault(result["image_id"], []).append(result)
    assert len(found) == 21
    content["annotations"] = []
    for number, results in enumerate(found.values()):
        for rank in range(0, 12, 1 + number % 3):  # copies of one image differ in their truth
            x, y, w, h = results[rank]["bbox"]
            item = results[rank] | {"bbox": [x, y, (0.75 + rank / 50) * w, h], "area": w * h, "iscrowd": 0}
            content["annotations"].append(item | {"id": len(content["annotations"]) + 1})
    path.write_text(json.dumps(content))

    # (one by one: in a batch the last bits of a score depend on its neighbours, and these scores are full of ties)
    options = ["--dataset", twenty_one, "--max_steps", "1", "--eval_steps", "1", "--save_steps", "1"]
    options += ["--per_device_eval_batch_size", "1"]
    options += ["--model", finished, "--model_config", "{}", "--learning_rate", "0", "--weight_decay", "0"]
    run(sys.executable, "train.py", recipe, *options, "--output_dir", tmp_path / "one")
    options += ["--ddp_find_unused_parameters", "false", "--output_dir", tmp_path / "two"]
    run(sys.executable, *TWO_PROCESSES, "train.py", recipe, *options)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    one, two = (lines(tmp_path / name / "evaluation.jsonl")[0] for name in ("one", "two"))
    assert 0.2 < one["AP"] < 0.9
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"):
        assert one[name] == pytest.approx(two[name], abs=1e-9), name


def test_trackers_get_the_numbers_of_the_run_folder(recipe, tmp_path):
    """`report_to`, of which tensorboard stands here for all: one run, with losses and figures under their names."""
    folder = tmp_path / "run"
    run(sys.executable, "train.py", recipe, "--report_to", "tensorboard", "--output_dir", folder)
    (events,) = folder.rglob("*tfevents*")
    tracked = EventAccumulator(str(events)).Reload()
    for line in lines(folder / "metrics.jsonl"):
        for name in ("loss", "loss_giou_dn_0", "learning_rate_backbone"):
            values = {event.step: event.value for event in tracked.Scalars(f"train/{name}")}
            assert values[line["step"]] == pytest.approx(line[name], rel=1e-5)
    values = {event.step: event.value for event in tracked.Scalars("eval/AR100")}
    assert values == pytest.approx({line["step"]: line["AR100"] for line in lines(folder / "evaluation.jsonl")})
    with pytest.raises(ValueError, match="report_to: no_such_tracker is not installed here"):
        parse_options([str(recipe), "--report_to", "no_such_tracker"])


def test_errors_name_the_culprit(recipe, data, finished, tmp_path):
    with pytest.raises(ValueError, match=r"command line: unknown option 'num_querys'; did you mean 'num_queries'"):
        parse_options([str(recipe), "--num_querys", "5"])
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "learning_rat": 1}))
    with pytest.raises(ValueError, match=r"bad\.yaml: unknown option 'learning_rat'; did you mean 'learning_rate'"):
        parse_options([str(bad)])
    with pytest.raises(ValueError, match="total_batch_size=5 does not divide"):
        parse_options([str(recipe), "--total_batch_size", "5", "--gradient_accumulation_steps", "2"])
    with pytest.raises(FileNotFoundError, match=r"no recipe nowhere\.yaml"):
        parse_options(["nowhere.yaml"])
    output = run(sys.executable, "train.py", recipe, "--output_dir", finished, expect=1)
    assert "holds a run or a checkpoint already" in output and "Traceback" not in output
    output = run(
        sys.executable, "train.py", recipe, "--output_dir", tmp_path / "x", "--eval_split", "test", expect=1
    )  # fmt: skip
    assert "no split 'test'" in output and "train" in output and "Traceback" not in output


def test_convert(core_golden, tmp_path):
    """A detrex checkpoint becomes a folder that loads to the same model."""
    command = [sys.executable, "-m", "dino_detr.cli", "convert", core_golden / "state_dict.safetensors"]
    command += ["--reference-config", core_golden / "config.json", "--output", tmp_path / "converted"]
    run(*command)
    model = DinoDetrForObjectDetection.from_pretrained(tmp_path / "converted")
    expected = load_reference_checkpoint(core_golden / "state_dict.safetensors", core_golden / "config.json")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert "is not an empty folder" in run(*command, expect=1)
