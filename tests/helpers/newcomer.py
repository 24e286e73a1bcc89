"""A folder in which whatever the documents name lies where they name it, made small: their commands run there."""

import csv
import json
import math
import os
import shutil
from pathlib import Path

import av
import numpy as np
import torch
import yaml
from datasets import Dataset, Image
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import AutoBackbone

from dino_detr.data.image_files import cache_folder
from dino_detr.hub import convert_checkpoint
from dino_detr.training import parse_options, prepare, train
from helpers.launching import RECIPE, ROOT
from helpers.other_formats import write_voc, write_yolo
from helpers.published import authors_state, detrex_state
from helpers.scenes import write_scenes
from helpers.tiny import tiny_backbone_config

GOLDEN = ROOT / "tests" / "golden"


def make_folder(home: Path) -> None:
    for name in ("Makefile", "docs", "examples", "pyproject.toml", "recipes", "scripts", "train.py"):
        (home / name).symlink_to(ROOT / name)
    own = home / "path" / "to" / "folder"
    write_scenes(own, {"train": 16, "val": 5})
    for name in ("path/to/coco_folder", "my_data"):
        _link(home, "path/to/folder", name)
    _write_data(home, own)
    torch.manual_seed(0)
    for size, patch in (("base", 14), ("large", 14)):
        backbone = AutoBackbone.from_config(tiny_backbone_config(patch_size=patch, image_size=56))
        backbone.save_pretrained(home / "facebook" / f"dinov2-{size}")
    _link(home, "facebook/dinov2-base", "path/to/backbone")
    _write_runs(home)


def _write_data(home: Path, own: Path) -> None:
    shutil.copytree(own, home / "coco")  # COCO's own names
    for split in ("train", "val"):
        (home / "coco" / split).rename(home / "coco" / f"{split}2017")
        annotations = home / "coco" / "annotations"
        (annotations / f"instances_{split}.json").rename(annotations / f"instances_{split}2017.json")
    _link(home, "coco", "path/to/coco")
    _link(home, "coco", "datasets/coco")

    names = ["digit " + str(digit) for digit in range(10)]
    write_yolo(own, home / "path" / "to")
    description = {"train": "images/train", "val": "images/val", "names": names}
    (home / "path" / "to" / "data.yaml").write_text(yaml.safe_dump(description))
    write_voc(own, home / "VOCdevkit" / "VOC2012")
    write_voc(own, home / "photos_with_xml", xml="", images="", lists=False)

    photo = PILImage.open(own / "val" / "000.png").convert("RGB")
    (home / "folder_of_images").mkdir()
    for path in ("photo.jpg", "folder_of_images/one.jpg", "folder_of_images/two.jpg"):
        photo.save(home / path)
    with av.open(str(home / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = photo.width // 2 * 2, photo.height // 2 * 2, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_image(photo)))
        container.mux(stream.encode(None))
    (home / "space").mkdir()
    (home / "space" / "app.py").write_text("")
    (home / "space" / "README.md").write_text("---\ntitle: a page\nsdk: gradio\n---\n")
    corners = {"bbox": [[1.0, 2.0, 11.0, 22.0]], "category": [0]}
    rows = Dataset.from_dict({"image": [str(home / "photo.jpg")], "objects": [corners]}).cast_column("image", Image())
    (home / "user" / "name").mkdir(parents=True)
    rows.to_parquet(home / "user" / "name" / "train.parquet")


def _write_runs(home: Path) -> None:
    (home / "RECIPE.yaml").write_text(yaml.safe_dump({**RECIPE, "dataset": "path/to/folder"}))
    trained = home / "runs" / "trained"
    options = ["--dataset", "digits", "--max_steps", "2", "--output_dir", str(trained)]
    train(prepare(parse_options([str(home / "RECIPE.yaml"), *options])))
    for name in ("runs/quickstart", "runs/finetune", "runs/first", "runs/mine", "you/detector", "quickstart", "bccd"):
        _link(home, "runs/trained", name)

    steps = np.linspace(5000, 90000, 18)
    values = [0.55 - 8 * step**-0.4 + 0.002 * math.sin(step) for step in steps]
    (home / "runs" / "coco").mkdir()
    lines = [json.dumps({"step": int(step), "AP": value}) + "\n" for step, value in zip(steps, values)]
    (home / "runs" / "coco" / "evaluation.jsonl").write_text("".join(lines))
    with open(home / "history.csv", "w", newline="") as file:
        csv.writer(file).writerows([("Step", "bbox/AP"), *((int(s), 100 * v) for s, v in zip(steps, values))])

    content = json.loads((home / "path" / "to" / "folder" / "annotations" / "instances_val.json").read_text())
    (home / "annotations.json").write_text(json.dumps(content))
    results = [
        {name: annotation[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for annotation in content["annotations"]
    ]
    (home / "results.json").write_text(json.dumps(results))

    torch.save(load_file(GOLDEN / "state_dict.safetensors"), home / "model_final.pth")
    shutil.copyfile(GOLDEN / "config.json", home / "config.json")
    torch.save({"model": authors_state()}, home / "checkpoint.pth")
    downloaded = cache_folder() / "checkpoints" / "detrex-swin-large-384-5scale-36ep.pth"
    downloaded.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": detrex_state(columns=10)}, downloaded)
    convert_checkpoint(downloaded.stem, home / "detector")


def _link(home: Path, existing: str, name: str) -> None:
    """Relative, so that a copy of the folder holds together."""
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(home / existing, path.parent))
