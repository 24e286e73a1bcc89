"""What the conversion writes is whole: it loads anywhere, knows COCO, and says where it comes from."""

import json
import re
import sys

import pytest
import torch
import yaml
from helpers.fake_hub import REPOSITORY, pushed_files
from helpers.launching import ENVIRONMENT, run
from helpers.published import authors_state, detrex_state
from helpers.stranger import STRANGER
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from dino_detr.cli import main
from dino_detr.hub import push_run, write_card
from dino_detr.hub.conversion import sources
from dino_detr.hub.conversion.folder import convert_checkpoint
from dino_detr.published_checkpoints import read_published

NAME = "detrex-r50-4scale-12ep"
LOADED_ELSEWHERE = """
from transformers import pipeline
detector = pipeline("object-detection", model="folder", trust_remote_code=True)
found = detector("photo.png", threshold=0.0)
print("found", len(found), found[0]["label"])
"""


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small file in the place of one of the table, fetched before."""
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "cache" / "checkpoints" / f"{NAME}.pth"
    path.parent.mkdir(parents=True)
    torch.save({"model": detrex_state()}, path)
    return path


def test_the_folder_is_whole(tmp_path, monkeypatch):
    """COCO's names and ids, the processor's values, and code that a stranger's process runs."""
    torch.save({"model": authors_state(), "epoch": 11}, tmp_path / "theirs.pth")
    convert_checkpoint(str(tmp_path / "theirs.pth"), tmp_path / "folder")
    model = AutoModelForObjectDetection.from_pretrained(tmp_path / "folder")
    assert (model.config.num_labels, model.config.category_ids[:12]) == (80, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13])
    assert (model.config.id2label[0], model.config.id2label[79]) == ("person", "toothbrush")
    processor = json.loads((tmp_path / "folder" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.485, 0.456, 0.406] and processor["image_std"] == [0.229, 0.224, 0.225]
    assert processor["size"] == {"shortest_edge": 800, "longest_edge": 1333} and processor["top_k"] == 300
    assert processor["do_convert_rgb"] is True

    (tmp_path / "folder" / "preprocessor_config.json").write_text(
        json.dumps(processor | {"size": {"shortest_edge": 64, "longest_edge": 96}, "top_k": 7})
    )
    Image.new("RGB", (90, 60), "red").save(tmp_path / "photo.png")
    monkeypatch.setitem(ENVIRONMENT, "HF_HOME", str(tmp_path / "hf"))
    output = run(sys.executable, "-c", STRANGER + LOADED_ELSEWHERE, cwd=tmp_path)
    count, label = re.search(r"^found (\d+) (.*)$", output, flags=re.M).groups()
    assert 1 <= int(count) <= 7 and label in model.config.id2label.values()


def test_a_files_own_mean_and_deviation_are_the_processors(tmp_path):
    own = {"pixel_mean": torch.tensor([10.0, 20.0, 51.0]).reshape(3, 1, 1), "pixel_std": torch.full((3, 1, 1), 127.5)}
    torch.save({"model": detrex_state() | own}, tmp_path / "a.pth")
    convert_checkpoint(str(tmp_path / "a.pth"), tmp_path / "folder")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "folder")
    assert list(processor.image_mean) == pytest.approx([10 / 255, 20 / 255, 0.2], abs=1e-6)
    assert list(processor.image_std) == pytest.approx([0.5] * 3)


def test_the_average_is_taken_where_there_is_one(tmp_path):
    """detrex's has the heads once, under other names than the weights of training have them first."""
    raw, other = detrex_state(seed=0), detrex_state(seed=1)
    average = {name: value for name, value in other.items() if not name.startswith(("class_embed", "bbox_embed"))}
    torch.save({"model": raw, "ema_state": average}, tmp_path / "with.pth")
    torch.save({"model": other}, tmp_path / "other.pth")
    converted = convert_checkpoint(str(tmp_path / "with.pth"), tmp_path / "folder")
    expected = convert_checkpoint(str(tmp_path / "other.pth"), tmp_path / "other").model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in converted.model.state_dict().items())
    assert "running average" in converted.describe()
    assert "running average of its weights was taken" in (tmp_path / "folder" / "README.md").read_text()


def test_the_card_tells_the_source_and_that_its_figure_was_not_measured(published, tmp_path, hub):
    converted = convert_checkpoint(NAME, tmp_path / "folder")
    assert "detrex: resnet backbone, 4 levels, 20 queries, 80 classes of COCO;" in converted.describe()
    card = ModelCard.load(tmp_path / "folder" / "README.md")
    for said in (
        f"[{NAME}]({read_published()[NAME].place})",
        "trained for 12 epochs with [detrex](https://github.com/IDEA-Research/detrex)",
        "49.2 box AP on COCO val2017. That is their figure: it was not measured here.",
        "dino-detr evaluate folder --dataset path/to/coco",
        'pipeline("object-detection", model="folder", trust_remote_code=True)',
        "The weights: none is stated with them.",
        "[detrex](https://github.com/IDEA-Research/detrex): Apache-2.0.",
        "How well it does was not measured here.",
    ):
        assert said in card.text, said
    assert card.data.eval_results is None and card.data.get("license") is None
    assert str(tmp_path) not in card.content

    write_card(tmp_path / "folder", "apache-2.0")  # as `dino-detr card` does
    again = ModelCard.load(tmp_path / "folder" / "README.md")
    assert "The weights: apache-2.0." in again.text and "was not measured here. To measure it" in again.text
    push_run(tmp_path / "folder", REPOSITORY)
    assert f"[{NAME}]({read_published()[NAME].place})" in pushed_files(hub)["README.md"].decode()
    assert json.loads(pushed_files(hub)["source.json"])["published_box_ap"] == 49.2


def test_a_file_of_ones_own_is_not_said_to_be_anothers(tmp_path):
    torch.save(authors_state(columns=5), tmp_path / "mine.pth")
    convert_checkpoint(str(tmp_path / "mine.pth"), tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "from `mine.pth`, a checkpoint with the names of [IDEA-Research/DINO]" in card
    assert "box AP" not in card and "trained on COCO" not in card and str(tmp_path) not in card


@pytest.mark.parametrize("state", [detrex_state, authors_state], ids=["detrex", "IDEA-Research"])
def test_the_folder_is_trained_on_and_evaluated(state, data, tmp_path, capsys):
    torch.save(state(), tmp_path / "theirs.pth")
    convert_checkpoint(str(tmp_path / "theirs.pth"), tmp_path / "folder")
    recipe = {
        "model": str(tmp_path / "folder"), "dataset": str(data), "max_steps": 1, "total_batch_size": 2,
        "image_sizes": [64], "max_image_size": 96, "num_denoising": 4, "use_cpu": True, "num_queries": 15,
        "freeze_backbone": 2, "eval_strategy": "no", "load_best_model_at_end": False,
        "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    main(["train", str(tmp_path / "recipe.yaml")])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["num_queries"] == 15 and config["freeze_backbone"] == 2 and len(config["id2label"]) == 10
    assert config["num_unused_classes"] == 0  # of COCO's ids, which the data do not have
    main(["evaluate", str(tmp_path / "run"), "--dataset", str(data)])
    assert "AP50" in capsys.readouterr().out
