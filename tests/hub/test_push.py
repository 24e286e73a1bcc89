"""Promise 14: what is pushed is what strangers load. The Hub is `fake_hub.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.fake_hub import REPOSITORY, TOKEN, pushed_files, sha256
from helpers.launching import change
from helpers.stranger import STRANGER
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save
from transformers import pipeline

from dino_detr.cli import main
from dino_detr.hub import push_run

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
    assert "model.safetensors" in pushed_files(hub)


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
    theirs = pushed_files(hub)["README.md"].replace(b"## Use", b"Their words.\n\n## Use")
    repository.commit("edited in the browser", pushed_files(hub) | {"README.md": theirs})
    change(folder / "figures.json", AP=0.9)
    push_run(folder, REPOSITORY)
    assert pushed_files(hub)["README.md"] == theirs and b"0.900" in pushed_files(hub)["README.new.md"]
    assert "README.md was edited there and stays" in caplog.text
    mine = "# My card\n"
    (folder / "README.md").write_text(mine)
    push_run(folder, REPOSITORY)
    assert pushed_files(hub)["README.md"] == mine.encode()


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
