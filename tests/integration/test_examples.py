"""The examples, in processes of their own, beside what the command line says of the same."""

import json
import sys

import pytest
import torch
from helpers.launching import RECIPE, run
from helpers.tiny import tiny_backbone_config, tiny_detector
from PIL import Image
from transformers import AutoBackbone

from dino_detr import DinoDetrImageProcessor, cli


def test_finetune(data, tmp_path):
    AutoBackbone.from_config(tiny_backbone_config()).save_pretrained(tmp_path / "backbone")
    detector = {name: value for name, value in RECIPE["model_config"].items() if name != "backbone_config"}
    options = ["--backbone", tmp_path / "backbone", "--model_config", json.dumps(detector), "--num_queries", "20"]
    options += ["--image_sizes", "64", "--max_steps", "1", "--total_batch_size", "2", "--dataloader_num_workers", "0"]
    options += ["--bf16", "false", "--use_cpu"]
    output = run(sys.executable, "examples/finetune.py", data, tmp_path / "run", *options)
    assert "9 images to train on, 7 to evaluate on\nclasses: digit 0, digit 1" in output
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    said = output[output.index("; of each class:") :].splitlines()[1:11]
    assert said == [f"  {values['AP']:6.3f}  {name}" for name, values in figures["per_class"].items()]


def test_detect_folder_finds_what_predict_finds(data, tmp_path):
    detector, images = tmp_path / "detector", tmp_path / "images"
    model = tiny_detector()
    with torch.no_grad():
        for head in model.model.class_embed:
            head.bias += 4  # some scores above 0.5, some below
    model.save_pretrained(detector)
    DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(detector)
    images.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for number, size in enumerate([(96, 64), (80, 60)]):
        Image.open(data / "val" / f"00{number}.png").resize(size).save(images / f"{number}.png", exif=exif)
    (images / "notes.txt").write_text("no image")

    run(sys.executable, "examples/detect_folder.py", detector, images, tmp_path / "found.json")
    cli.main(["predict", str(detector), str(images), "--output", str(tmp_path / "predicted")])
    found = json.loads((tmp_path / "found.json").read_text())
    expected = json.loads((tmp_path / "predicted" / "detections.json").read_text())
    assert list(found) == ["0.png", "1.png"]
    for image in expected:
        actual = found[image["image"].rpartition("/")[2]]
        assert 0 < len(actual) == len(image["detections"]) < 60
        for one, other in zip(actual, image["detections"]):
            assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-4)
            assert one["box"] == pytest.approx(other["box"], abs=0.11)

    again = run(sys.executable, "examples/detect_folder.py", detector, images, tmp_path / "found.json", expect=1)
    assert "found.json exists; choose another" in again
