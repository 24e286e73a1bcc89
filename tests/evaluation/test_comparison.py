"""`dino-detr compare`: what is the same in two runs is not said, what differs is."""

import json

import pytest
import yaml
from PIL import Image

from dino_detr.cli import main


def write_run(folder, rate: float, best: float, finished: bool = True, **options) -> None:
    folder.mkdir(parents=True)
    metrics = [{"step": step, "loss": 20 / step, "seconds_per_step": 0.5, "peak_memory_mib": 900} for step in (10, 20)]
    evaluations = [{"step": 10, "epoch": 1, "AP": best, "AP50": best + 0.1}, {"step": 20, "AP": best / 2, "AP50": best}]
    for name, lines in (("metrics", metrics), ("evaluation", evaluations)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = {"learning_rate": rate, "max_steps": 20, "output_dir": str(folder), **options}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    if finished:
        (folder / "figures.json").write_text(json.dumps({"step": 10, "AP": best, "AP50": best + 0.1, "APs": -1}))


def test_runs_side_by_side(tmp_path, capsys):
    write_run(tmp_path / "a" / "run", 1e-4, 0.31)
    write_run(tmp_path / "b" / "run", 3e-4, 0.42, finished=False, ema_decay=0.99)
    files = ["--plot", str(tmp_path / "new" / "curves.png"), "--output", str(tmp_path / "table.json")]
    main(["compare", str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"), *files])
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["a/run", "b/run"]
    assert ["AP", "0.310", "0.420"] in table and ["APs", "-", "-"] in table and ["steps", "20", "20"] in table
    assert ["best", "at", "step", "10", "10"] in table
    differ = table[table.index(["Options", "that", "differ"]) + 1 :]
    assert differ[:2] == [["ema_decay", "-", "0.99"], ["learning_rate", "0.0001", "0.0003"]]
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["b/run"]["options"] == {"ema_decay": 0.99, "learning_rate": 3e-4}
    assert content["a/run"]["figures"]["AP50"] == pytest.approx(0.41)
    with Image.open(tmp_path / "new" / "curves.png") as picture:
        assert picture.width > 2 * picture.height


@pytest.mark.parametrize(
    ("runs", "said"),
    [(["run"], "at least two"), (["run", "empty"], "empty holds no run"), (["run", "./run"], "named twice")],
)
def test_what_cannot_be_compared_is_said(runs, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", 1e-4, 0.3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=said):
        main(["compare", *runs])
    assert not (tmp_path / "comparison.png").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("recipe.yaml", "{[}:::", "recipe.yaml cannot be read"),
        ("recipe.yaml", "- a", "recipe.yaml is no mapping"),
        ("recipe.yaml", "a: !!python/object/apply:os.system ['true']", "recipe.yaml cannot be read"),
        ("figures.json", "{", "figures.json cannot be read"),
        ("figures.json", "[1]", "figures.json is no mapping"),
        ("figures.json", '{"AP": "0.3"}', "figures.json: AP is '0.3', not a number"),
        ("figures.json", '{"AP": null}', "figures.json: AP is None, not a number"),
        (
            "figures.json",
            '{"AP": 0.1, "per_class": {"cat": {"AP": []}}}',
            r"figures.json, cat: AP is \[\], not a number",
        ),
    ],
)
def test_a_damaged_file_of_a_run_is_named_by_all_who_read_it(file, content, said, tmp_path):
    for name in "ab":
        write_run(tmp_path / name, 1e-4, 0.3)
    (tmp_path / "a" / "config.json").write_text('{"id2label": {}, "num_queries": 9, "backbone_config": {}}')
    (tmp_path / "a" / file).write_text(content)
    plot = ["--plot", str(tmp_path / "curves.png")]
    verbs = [["compare", str(tmp_path / "a"), str(tmp_path / "b"), *plot], ["card", str(tmp_path / "a")]]
    if file == "recipe.yaml":
        verbs.append(["forecast", str(tmp_path / "a")])
    for verb in verbs:
        with pytest.raises(SystemExit, match=said):
            main(verb)


def test_lines_of_a_history_without_a_step_are_passed_over(tmp_path, capsys):
    lines = [
        '{"step": "7", "AP": 0.9}',
        '{"step": [1]}',
        '{"step": NaN}',
        '{"step": true}',
        "[" * 10**5,
        '{"step": 30, "AP',
    ]
    for name in "ab":
        write_run(tmp_path / name, 1e-4, 0.3, finished=False)
        for part in ("metrics", "evaluation"):
            with open(tmp_path / name / f"{part}.jsonl", "a") as file:
                file.write("\n".join([*lines, '{"step": %s}' % ("9" * 5000)]))
    with open(tmp_path / "a" / "recipe.yaml", "a") as file:
        file.write("started: 2020-01-01\n")  # YAML's dates are none of JSON's values
    files = ["--plot", str(tmp_path / "curves.png"), "--output", str(tmp_path / "table.json")]
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), *files])
    assert ["AP", "0.300", "0.300"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert json.loads((tmp_path / "table.json").read_text())["a"]["options"]["started"] == "2020-01-01"
