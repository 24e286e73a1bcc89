"""What is a data set, and what is none; the same losses through every door."""

import shutil

import pytest
import torch
from datasets import Dataset
from helpers.animals import coco, write_images, write_json
from helpers.tiny import tiny_detector

from dino_detr import DinoDetrImageProcessor, cli
from dino_detr.data import load_detection_dataset
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.samples import TrainingSamples, collate


def test_one_file_is_not_trained_and_evaluated_on(data, recipe, tmp_path):
    file = data / "annotations" / "instances_train.json"
    with pytest.raises(SystemExit, match=r"instances_train.json is one split.* train.json and val.json, into a folder"):
        cli.main(["train", str(recipe), "--dataset", str(file), "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize("source", ["nowhere", "/no/where", "./no/where", "a/b/c", "missing.json", "../b"])
def test_what_is_no_source(source):
    with pytest.raises(ValueError, match="No data set"):
        load_detection_dataset(source, "train")


def test_a_folder_of_something_else(tmp_path):
    write_images(tmp_path / "train")
    with pytest.raises(ValueError, match=r"it needs annotations/instances_<split>.json .* import-data"):
        load_detection_dataset(str(tmp_path), "train")


def losses(rows: Dataset) -> dict:
    """Of a tiny detector in training, on the samples of all rows."""
    samples = TrainingSamples(rows, build_augmentation("reference", [48, 64], 96), seed=0)
    batch = collate([samples[index] for index in range(len(rows))])
    batch |= DinoDetrImageProcessor().normalize_padded(
        batch["images"], torch.stack([labels["size"] for labels in batch["labels"]])
    )
    model = tiny_detector().train()
    torch.manual_seed(0)
    outputs = model(batch["pixel_values"], pixel_mask=batch["pixel_mask"], labels=batch["labels"])
    return {name: value.item() for name, value in {**outputs.loss_dict, "loss": outputs.loss}.items()}


def test_losses_are_the_same_through_every_door(tmp_path, images, plain, monkeypatch):
    """Whatever the ids are, and in whatever order the categories are listed."""
    expected = None
    forms = {
        "dense": coco(ids=(0, 1, 2)),
        "from one": coco(),
        "sparse": coco(ids=(3, 17, 90)),
        "shuffled": coco(ids=(3, 17, 90), order=(2, 0, 1)),
        "roboflow": coco(dummy=True),
    }
    for name, content in forms.items():
        folder = tmp_path / name
        shutil.copytree(images, folder / "train")
        write_json(folder / "train" / "_annotations.coco.json", content)
        rows = load_detection_dataset(str(folder), "train")
        found = losses(rows)
        assert found["loss"] > 0
        expected = expected or found
        assert found == expected, name
    plain.save_to_disk(tmp_path / "saved")
    assert losses(load_detection_dataset(str(tmp_path / "saved"), "train")) == expected
    # another assignment of classes is another loss
    write_json(tmp_path / "dense" / "train" / "_annotations.coco.json", coco(ids=(2, 1, 0)))
    assert losses(load_detection_dataset(str(tmp_path / "dense"), "train")) != expected
