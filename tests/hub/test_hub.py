"""Promise 14: cards say what a run measured, and what is pushed is what strangers load. The Hub is `fake_hub.py`."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from helpers.fake_hub import TOKEN, FakeHub, sha256
from helpers.stranger import STRANGER
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load, load_file, save
from transformers import pipeline

from dino_detr.cli import main
from dino_detr.evaluation.evaluate import Evaluation
from dino_detr.hub import push_run, write_card
from dino_detr.hub.cards import is_edited
from dino_detr.runs.names import FIGURES
from dino_detr.training import DetectionTrainer, parse_options, prepare, train, uploads

REPOSITORY = "someone/detector"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(prepare(parse_options([str(recipe), "--output_dir", str(folder)])))
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def scores(monkeypatch):
    """The AP of each evaluation to come, instead of a measured one."""
    coming = []

    def score(self, rows=None):
        ap = coming.pop(0) if len(coming) > 1 else coming[0]
        figures = dict.fromkeys(FIGURES, ap) | {"per_class": {"digit 0": {"AP": ap, "AP50": ap}}}
        return Evaluation(figures, self.eval_dataset, [], [])

    monkeypatch.setattr(DetectionTrainer, "score", score)
    return coming


def change(path: Path, **values) -> None:
    content = yaml.safe_load(path.read_text()) | values  # JSON is YAML
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def files_of(hub: FakeHub, number: int = -1) -> dict[str, bytes]:
    return hub.repositories[REPOSITORY].commits[number].files


# cards


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


# pushes

USE = """
import json, re
from pathlib import Path
from safetensors.torch import save_file
from PIL import Image

(snippet,) = re.findall("```python\\n(.*?)```", Path(sys.argv[1]).read_text(), re.S)
exec(snippet)
found = detector("photo.jpg", threshold=0.0)
inputs = detector.image_processor(Image.open("photo.jpg"), return_tensors="pt")
outputs = detector.model(**inputs)
save_file({"logits": outputs.logits.data, "boxes": outputs.pred_boxes.data}, "outputs.safetensors")
Path("found.json").write_text(json.dumps(found))
assert type(detector.model).__module__.startswith("transformers_modules.")
"""


def test_a_stranger_runs_what_was_pushed_as_its_card_says(trained, data, hub, tmp_path, capsys):
    """In a process without this package, to the bit; and the repository holds nothing of the machine or of training."""
    main(["push", str(trained), REPOSITORY, "--license", "mit"])
    commit = hub.repositories[REPOSITORY].commits[-1]
    assert f"{trained} -> {hub.endpoint}/{REPOSITORY}/commit/{commit.oid}" in capsys.readouterr().out
    code = {path.name for path in trained.glob("*.py")}
    assert set(commit.files) == code | {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml",
        "environment.json", "evaluation.jsonl", "plots/box_ap.png", "plots/loss.png", "plots/detections.png",
    }  # fmt: skip
    assert commit.files["model.safetensors"] == (trained / "model.safetensors").read_bytes()
    for name, content in commit.files.items():
        for place in (trained.parent, data.parent, Path.cwd(), Path.home()):
            assert str(place).encode() + b"/" not in content, name
    assert ModelCard(commit.files["README.md"].decode()).data.license == "mit"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.open(next((data / "val").glob("*.png"))).convert("RGB").save(elsewhere / "photo.jpg")
    (elsewhere / "card.md").write_bytes(commit.files["README.md"])
    (elsewhere / "script.py").write_text("import sys\n" + STRANGER + USE)
    foreign = ("PYTHONPATH", "HF_", "HUGGINGFACE_", "TRANSFORMERS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment = inherited | {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "script.py", "card.md"], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    detector = pipeline("object-detection", model=str(trained))
    expected = detector(str(elsewhere / "photo.jpg"), threshold=0.0)
    assert len(expected) > 10 and json.loads((elsewhere / "found.json").read_text()) == expected
    inputs = detector.image_processor(Image.open(elsewhere / "photo.jpg"), return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
    theirs = load_file(elsewhere / "outputs.safetensors")
    assert torch.equal(theirs["logits"], outputs.logits) and torch.equal(theirs["boxes"], outputs.pred_boxes)


def test_pushing_again_sends_what_is_new(folder, hub):
    first = push_run(folder, REPOSITORY, tag="v1")
    puts = len([r for r in hub.requests if r[0] == "PUT"])
    assert push_run(folder, REPOSITORY, tag="v1") == first  # no new commit, and the tag is where it should be
    change(folder / "figures.json", AP=0.9)
    (folder / "model.safetensors").unlink()  # now in two files, of which the Hub must not keep the one
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for number in (1, 2):
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(save({"a": torch.zeros(number)}))
    with pytest.raises(ValueError, match=f"{REPOSITORY}: the files are uploaded, but v1 names another revision"):
        push_run(folder, REPOSITORY, tag="v1")
    assert len([r for r in hub.requests if r[0] == "PUT"]) == puts + 2  # no picture again
    commits = hub.repositories[REPOSITORY].commits
    assert len(commits) == 3 and hub.repositories[REPOSITORY].tags == {"v1": commits[1].oid}
    assert {name for name in commits[2].files if name.startswith("model")} == {
        "modeling_dino_detr.py", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip


def test_an_upload_that_broke_off_goes_on(folder, hub, monkeypatch):
    weights = sha256((folder / "model.safetensors").read_bytes())
    hub.breaks_off = lambda path: path.endswith(weights)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between huggingface_hub's own tries
    with pytest.raises(ConnectionError, match=f"{REPOSITORY}: .*pushing again goes on from there"):
        push_run(folder, REPOSITORY)
    assert len(hub.repositories[REPOSITORY].commits) == 1  # nothing half done
    arrived = set(hub.objects)
    assert len(arrived) == 3 and weights not in arrived  # the pictures
    hub.breaks_off, hub.requests[:] = (lambda path: False), []
    push_run(folder, REPOSITORY)
    assert [path for method, path in hub.requests if method == "PUT"] == [f"/objects/{weights}"]
    assert "model.safetensors" in files_of(hub)


def test_private_is_private_or_nothing(folder, hub):
    push_run(folder, REPOSITORY, private=True)
    assert hub.repositories[REPOSITORY].private
    push_run(folder, "someone/open")
    assert not hub.repositories["someone/open"].private
    with pytest.raises(ValueError, match="someone/open exists and is public: nothing was uploaded"):
        push_run(folder, "someone/open", private=True)
    assert len(hub.repositories["someone/open"].commits) == 2


def test_a_card_edited_on_the_hub_stays(folder, hub, caplog):
    push_run(folder, REPOSITORY)
    repository = hub.repositories[REPOSITORY]
    theirs = files_of(hub)["README.md"].replace(b"## Use", b"Their words.\n\n## Use")
    repository.commit("edited in the browser", files_of(hub) | {"README.md": theirs})
    change(folder / "figures.json", AP=0.9)
    push_run(folder, REPOSITORY)
    assert files_of(hub)["README.md"] == theirs and b"0.900" in files_of(hub)["README.new.md"]
    assert "README.md was edited there and stays" in caplog.text
    mine = "# My card\n"
    (folder / "README.md").write_text(mine)
    push_run(folder, REPOSITORY)
    assert files_of(hub)["README.md"] == mine.encode()


def test_without_permission_or_network_there_is_one_line(folder, hub, monkeypatch):
    def complaint(*arguments) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["push", *map(str, arguments)])
        assert "\n" not in caught.value.code
        return caught.value.code

    said = complaint(folder, "others/detector")
    assert "others/detector: the Hub answers 403, You don't have the rights to write under others" in said
    assert "hf auth login" in said
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the Hub answers 401" in complaint(folder, REPOSITORY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.down = True
    assert f"{REPOSITORY}: the Hub cannot be reached" in complaint(folder, REPOSITORY)
    (folder / "model.safetensors").unlink()
    assert "holds no config.json and model.safetensors" in complaint(folder, REPOSITORY)
    assert not hub.repositories


# pushes while training

PUSH = ["--push_to_hub", "--hub_model_id", REPOSITORY, "--max_steps", "8", "--save_total_limit", "2"]


def run_with(recipe, folder, *options) -> None:
    train(prepare(parse_options([str(recipe), "--output_dir", str(folder), *PUSH, *options])))


@pytest.mark.parametrize("averaged", [False, True])
def test_each_improvement_is_pushed(recipe, hub, scores, tmp_path, averaged):
    """The best weights, of which there is a checkpoint no more by then, with their figures; then the finished run."""
    scores += [0.1, 0.3, 0.4, 0.2, 0.4]
    more = ["--hub_always_push"]
    if averaged:
        more += ["--ema_decay", "0.5"]
        scores[:] = [0.9, 0.1, 0.8, 0.3, 0.7, 0.4, 0.6, 0.2, 0.4]  # raw, average, ...
    folder = tmp_path / "run"
    kept, at_the_end = {}, threading.Event()
    original, push, finish = uploads.Uploads.offer, uploads.push_run, uploads.Uploads.finish

    def offer(self, state):  # what is in each checkpoint when it is new
        newest = folder / f"checkpoint-{state.global_step}" / ("ema" if averaged else "")
        kept[state.global_step] = (newest / "model.safetensors").read_bytes()
        original(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads.Uploads, "offer", offer)
        # so slow a network that older checkpoints are gone when it comes to them
        patch.setattr(uploads, "push_run", lambda *a, **k: at_the_end.wait(60) and push(*a, **k))
        patch.setattr(uploads.Uploads, "finish", lambda self: (at_the_end.set(), finish(self)))
        run_with(recipe, folder, *more)
    assert not (folder / "checkpoint-2").exists()
    commits = hub.repositories[REPOSITORY].commits[1:]
    steps = [int(re.match(r"Weights of step (\d+), AP", commit.message)[1]) for commit in commits]
    assert steps == [2, 4, 6, 6]
    for commit, step, ap in zip(commits, steps, (0.1, 0.3, 0.4, 0.4)):
        theirs, ours = load(commit.files["model.safetensors"]), load(kept[step])
        assert all(torch.equal(theirs[name], ours[name]) for name in ours | theirs)
        card = ModelCard(commit.files["README.md"].decode())
        assert card.data.eval_results[0].metric_value == ap and REPOSITORY in card.text
        assert not [name for name in commit.files if name.endswith((".pt", ".bin", ".pth", "state.json"))]
    assert "digit 0 | 0.400" in files_of(hub)["README.md"].decode()
    assert not (folder / ".push").exists() and not list(folder.glob("*.bin"))
    recipe_there = yaml.safe_load(files_of(hub)["recipe.yaml"])
    assert recipe_there["hub_model_id"] == REPOSITORY and "hub_token" not in recipe_there


@pytest.mark.parametrize("without", [{4}, {4, 6, 8}])
def test_training_outlives_the_hub(recipe, hub, scores, tmp_path, caplog, without):
    """
    The network goes after the first push: said once, the run ends as usual, and the weights that were due are pushed
    when it is back, with the next checkpoint or at the end.
    """
    scores += [0.1, 0.4, 0.2, 0.3, 0.4]
    finish, original = uploads.Uploads.finish, uploads.Uploads.offer

    def offer(self, state):
        self._queue.join()
        hub.down = state.global_step in without
        original(self, state)

    def finish_online(self):
        self._queue.join()
        hub.down = False
        finish(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads.Uploads, "offer", offer)
        patch.setattr(uploads.Uploads, "finish", finish_online)
        run_with(recipe, tmp_path / "run", "--hub_private_repo", "true")
    assert hub.repositories[REPOSITORY].private
    messages = [commit.message for commit in hub.repositories[REPOSITORY].commits[1:]]
    late = ["Weights of step 4, AP 0.400"] * (2 if without == {4} else 1)  # the last with all of the run's record
    assert messages == ["Weights of step 2, AP 0.100", *late]
    assert caplog.text.count("Training goes on") == 1
    assert files_of(hub)["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()


def test_training_without_permission_ends_as_usual(recipe, hub, tmp_path, caplog):
    folder = tmp_path / "run"
    run_with(recipe, folder, "--hub_model_id", "others/detector", "--hub_strategy", "end", "--max_steps", "2")
    assert (folder / "model.safetensors").exists() and not hub.repositories
    assert caplog.text.count("Training goes on") == 1
    assert f"`dino-detr push {folder} others/detector` uploads it" in caplog.text


@pytest.mark.parametrize(
    "options, said",
    [
        (["--hub_model_id", "a/b"], "hub_model_id has no effect here: see push_to_hub"),
        (["--hub_private_repo", "true"], "hub_private_repo has no effect here"),
        (["--push_to_hub", "--hub_strategy", "end", "--hub_always_push"], "hub_always_push has no effect here"),
        (["--push_to_hub", "--hub_strategy", "checkpoint"], "would upload the state of training"),
        (["--push_to_hub", "--hub_revision", "x"], "hub_revision is an option of transformers that has no effect"),
    ],
)
def test_options_without_effect_are_errors(recipe, options, said):
    with pytest.raises(ValueError, match=said):
        parse_options([str(recipe), *options])


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
