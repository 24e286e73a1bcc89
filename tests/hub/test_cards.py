"""Promise 14: cards say what a run measured, and nothing else."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from helpers.launching import change
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from dino_detr.cli import main
from dino_detr.hub import write_card
from dino_detr.hub.cards import is_edited

ROOT = Path(__file__).parent.parent.parent


def test_a_card_says_what_the_run_measured(folder, data):
    per_class = {f"digit {k}": {"AP": 0.5 + k / 100, "AP50": 0.8} for k in range(9)} | {"a|b": {"AP": 0.1, "AP50": 0.2}}
    figures = {"AP": 0.61234, "AP50": 0.8, "AP75": 0.7, "APs": 0.3, "APm": 0.65, "APl": -1.0}
    change(folder / "figures.json", step=2, per_class=per_class, **figures)
    (folder / "emissions.csv").write_text(  # the first run was measured twice
        "run_id,energy_consumed,emissions\na,0.1,0.01\na,0.2,0.04\nb,0.5,0.06\n"
    )
    write_card(folder)
    card = ModelCard.load(folder / "README.md")
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "box AP": 0.6123, "box AP50": 0.8, "box AP75": 0.7, "box APs": 0.3, "box APm": 0.65
    }  # fmt: skip
    assert {(r.dataset_name, r.dataset_split, r.task_type) for r in results.values()} == {
        (data.name, "val", "object-detection")
    }
    assert card.data.co2_eq_emissions["emissions"] == pytest.approx(100)
    for said in (
        "| 0.612 | 0.800 | 0.700 | 0.300 | 0.650 | - |",
        "those of step 2",
        "| digit 3 | 0.530 | 0.800 |",
        "Weakest classes: a\\|b (AP 0.100), digit 0 (AP 0.500), digit 1 (AP 0.510).",
        "AP 0.300, against 0.612 over all",
        "No object that is large",
        "shortest edge of 80 pixels, the longest at most 128; it was trained at shortest edges of 64 to 80",
        "4 steps of 4 images",
        "on 1 x CPU",
        "0.7 kWh, 100 g CO2",
        "(its author's own files)",
        "![Average precision](plots/box_ap.png)",
        f"torch {torch.__version__.partition('+')[0]}",
    ):
        assert said in card.text, said
    assert yaml.safe_load(re.search(r"```yaml\n(.*?)```", card.text, re.S)[1])["dataset"] == data.name
    assert str(data.parent) not in card.content and str(folder.parent) not in card.content
    assert card.content == (folder / "README.md").read_text()


def test_what_was_not_measured_is_not_in_the_card(folder):
    for name in ("figures.json", "recipe.yaml", "environment.json", "metrics.jsonl", "evaluation.jsonl"):
        (folder / name).unlink()
    shutil.rmtree(folder / "plots")
    card = ModelCard.load(write_card(folder))
    assert card.data.eval_results is None and card.data.get("datasets") is None
    assert not re.search(r"## (Figures|Training|Versions)|plots/|None", card.text)
    assert "How well it does was not measured." in card.text and "The backbone: not known." in card.text


@pytest.mark.parametrize(
    "sources, given, license, base_model, said",
    [
        ({}, None, None, None, "from random weights"),
        ({"backbone": "facebook/dinov2-base"}, None, None, "facebook/dinov2-base", "The backbone: Apache-2.0"),
        ({"backbone": "facebook/dinov2-base"}, "mit", "mit", "facebook/dinov2-base", "The weights: mit"),
        ({"backbone": "facebook/dinov3-vitb16"}, None, "other", "facebook/dinov3-vitb16", "DINOv3 License"),
        ({"backbone": "timm:vit_base"}, None, None, "timm/vit_base", "see [timm/vit_base]"),
        ({"model": "you/detector"}, None, None, "you/detector", "trained on from [you/detector]"),
        ({"backbone": "/home/me/secret/vit"}, None, None, None, "`vit` (its author's own files)"),
    ],
)
def test_licences_are_stated_where_they_are_known(folder, sources, given, license, base_model, said):
    if sources:
        change(folder / "recipe.yaml", model_config=None, **sources)
        local = [name for name, value in sources.items() if value.startswith("/")]
        change(folder / "environment.json", local_paths=["dataset", *local])
    if "dinov3" in str(sources):
        config = json.loads((folder / "config.json").read_text())
        change(folder / "config.json", backbone_config=config["backbone_config"] | {"model_type": "dinov3_vit"})
    card = ModelCard.load(write_card(folder, given))
    assert (card.data.get("license"), card.data.get("base_model")) == (license, base_model)
    assert said in card.text and "secret" not in card.content
    if given:  # and stays when the card is written anew
        assert ModelCard.load(write_card(folder)).data.license == given


def test_an_edited_card_stays(folder, caplog, capsys):
    card = folder / "README.md"
    first = card.read_text()
    change(folder / "figures.json", AP=0.9)
    main(["card", str(folder)])
    assert f"{folder} -> {card}" in capsys.readouterr().out
    assert "0.900" in card.read_text() != first and not is_edited(card)
    edited = card.read_text().replace("## Use", "My own words.\n\n## Use")
    card.write_text(edited)
    main(["card", str(folder)])
    assert card.read_text() == edited and "README.md was edited and stays" in caplog.text
    beside = folder / "README.new.md"
    assert "0.900" in beside.read_text() and not is_edited(beside)
    beside.write_text("mine too")
    with pytest.raises(SystemExit, match="both edited"):
        main(["card", str(folder)])
    assert beside.read_text() == "mine too"


def test_a_wheel_holds_the_template(tmp_path):
    pytest.importorskip("setuptools", minversion="77")  # that pyproject.toml asks for
    for name in ("dino_detr", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    script = "import setuptools.build_meta as build; build.build_wheel('.')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "dino_detr/hub/model_card.md" in zipfile.ZipFile(wheel).namelist()


def test_cards_of_runs_are_as_they_were_written():
    template = ROOT / "hub_cards" / "template.md"
    assert template.read_text() == (ROOT / "dino_detr" / "hub" / "model_card.md").read_text()
    cards = [path for path in template.parent.glob("*.md") if path != template]
    assert cards
    for path in cards:
        assert not is_edited(path) and ModelCard.load(path).data.eval_results
        for picture in re.findall(r"\]\((plots/.*?)\)", path.read_text()):
            assert (path.parent / picture).exists()


def test_class_names_are_no_markdown_in_a_card(folder):
    """A name shows itself: no link, picture, HTML, address or table cell of its own."""
    names = ["[click](http://a.example)", "![x](http://a.example/x.png)", "<img src=x>", "http://a.example",
             "a|b", "www.a.example", "*bold* _it_ `code` ~~no~~", "<http://a.example>", "&lt;b&gt;",
             "line\nbreak"]  # fmt: skip
    config, figures = (json.loads((folder / name).read_text()) for name in ("config.json", "figures.json"))
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    figures["per_class"] = {name: {"AP": 0.5, "AP50": 0.6} for name in names}
    for name, content in (("config.json", config), ("figures.json", figures)):
        (folder / name).write_text(json.dumps(content))
    card = write_card(folder).read_text(encoding="utf-8")
    table = card[card.index("| class |") :].partition("\n\n")[0]
    (sentence,) = [line for line in card.splitlines() if line.startswith("It finds 10 classes")]
    for text in (table, sentence):
        tokens = MarkdownIt("gfm-like").parse(text)
        inside = [part for token in tokens for part in token.children or []]
        assert {part.type for part in inside} <= {"text", "text_special"}
        assert "html_block" not in {token.type for token in tokens}
    cells = [
        "".join(part.content for part in token.children)
        for token in MarkdownIt("gfm-like").parse(table)
        if token.children
    ]
    assert cells[3::3] == [" ".join(name.split()) for name in names]
