"""What the lines of recipes/finetune.yaml are worth: python benchmarks/finetuning.py CHECKPOINT FOLDER [FOLDER ...]

Trains a small detector further on a few images of each COCO folder, once as the recipe says and once with each of its
lines changed, all for the same number of images. What depends on the size of a model is the small one's (`SMALL`), and
its backbone, which is no foundation model, is trained. A folder may be `negatives`: digits in the colours of a
photographic negative, made on the spot, for a checkpoint of the quick start.

Each run leaves a line in `--results`, and is not repeated if it is there. The table at the end has the mean AP of the
seeds that all lines have, and the least and the largest of the differences from the recipe, pair by pair.
"""

import argparse
import itertools
import json
import shutil
import statistics
from pathlib import Path

import torch
import yaml
from PIL import ImageOps

from dino_detr.data.sources.digits import load_digits_scenes
from dino_detr.runs.history import read_history
from dino_detr.runs.names import EVALUATION_JSONL
from dino_detr.training import parse_options, prepare, train

RECIPE = Path(__file__).parents[1] / "recipes" / "finetune.yaml"
SMALL = {
    "learning_rate": 2e-3,
    "muon": True,
    "freeze_backbone": False,
    "backbone_lr_factor": 1.0,
    "total_batch_size": 8,
    "warmup_steps": 20,
    "image_sizes": [112, 128, 144],
    "max_image_size": 260,
    "dataloader_num_workers": 0,
    "num_denoising": 56,
    "num_queries": 40,
}
AUGMENTATION_PARTS = ("horizontal_flip", "photometric_distort", "zoom_out", "iou_crop")
CHANGES = {
    "finetune": {},
    "augmentation none": {"augmentation": "none"},
    "augmentation reference": {"augmentation": "reference"},
    **{f"without {part}": {part: 0.0 if part == "horizontal_flip" else False} for part in AUGMENTATION_PARTS},
    "average of weights": {"ema_decay": 0.98},
    "half the denoising": {"num_denoising": 28},
    "twice the denoising": {"num_denoising": 112},
    "half the queries": {"num_queries": 20},
    "backbone at a tenth of the rate": {"backbone_lr_factor": 0.1},
    "first half of the backbone frozen": {"freeze_backbone": 3},  # its embeddings and two blocks
    "backbone frozen": {"freeze_backbone": True},
    "backbone frozen, adapters (rank 16)": {"freeze_backbone": True, "lora_rank": 16},
    "AdamW at half the rate": {"muon": False, "learning_rate": 1e-3},
}


def make_negatives(folder: Path, num_images: dict[str, int]) -> Path:
    """Write the first scenes of `digits`, with inverted colours, as a COCO folder."""
    for split, count in num_images.items():
        images, annotations = [], []
        (folder / split).mkdir(parents=True, exist_ok=True)
        for row in itertools.islice(load_digits_scenes(split), count):
            name = f"{row['image_id']}.png"
            ImageOps.invert(row["image"].convert("RGB")).save(folder / split / name)
            images.append({"id": row["image_id"], "file_name": name, "width": row["width"], "height": row["height"]})
            objects = row["objects"]
            for id_, bbox, category, area in zip(*(objects[key] for key in ("id", "bbox", "category", "area"))):
                box = {"id": id_, "image_id": row["image_id"], "bbox": bbox, "area": area, "iscrowd": 0}
                annotations.append(box | {"category_id": category})
        categories = [{"id": digit, "name": str(digit)} for digit in range(10)]
        path = folder / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder


def run_once(change: dict, dataset: Path, options: argparse.Namespace, seed: int) -> float:
    """Return the AP after training so."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    del recipe["backbone"], recipe["patch_size"]  # the checkpoint's
    steps = options.passes // SMALL["total_batch_size"]
    every = {"seed": seed, "max_steps": steps, "eval_steps": steps, "save_steps": steps, "logging_steps": steps}
    data = {"dataset": str(dataset), "train_split": f"train[:{options.images}]", "model": options.checkpoint}
    path, folder = options.folder / "recipe.yaml", options.folder / "run"
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    base = {"augmentation": options.augmentation} if options.augmentation else {}
    path.write_text(yaml.safe_dump(recipe | SMALL | every | data | base | change), encoding="utf-8")
    train(prepare(parse_options([str(path), "--output_dir", str(folder), "--disable_tqdm", "true"])))
    last = read_history(folder / EVALUATION_JSONL)[-1]
    return last.get("ema_AP", last["AP"])


def read_lines(path: Path) -> list[dict]:
    """Return the results of the runs before; none if there is no such file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(results: list[dict], datasets: list[str]) -> str:
    """Return the table in Markdown: for each data set AP, and what a change gives, from the least to the most."""
    heads = [f"{name}: AP | change" for name in datasets]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|---|" * len(datasets)]
    AP = {(line["change"], line["dataset"], line["seed"]): line["AP"] for line in results}
    for change in dict.fromkeys(["finetune", *(line["change"] for line in results)]):
        cells = []
        for name in datasets:
            seeds = [seed for what, where, seed in AP if (what, where) == (change, name)]
            seeds = [seed for seed in seeds if ("finetune", name, seed) in AP]
            gains = [AP[change, name, seed] - AP["finetune", name, seed] for seed in seeds]
            mean = statistics.mean(AP[change, name, seed] for seed in seeds) if seeds else float("nan")
            cells += [f"{mean:.3f}", f"{min(gains):+.3f} to {max(gains):+.3f}" if any(gains) else ""]
        lines.append(f"| {change} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("datasets", nargs="+", help="COCO folders, or `negatives`")
    parser.add_argument("--images", type=int, default=40, help="to train on (default: 40)")
    parser.add_argument("--passes", type=int, default=1600, help="images that are trained on in all (default: 1600)")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES), help="rows (default: all)")
    parser.add_argument("--augmentation", help="of all rows that do not change it (default: the recipe's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=Path("runs/finetuning"), help="of the runs")
    results = "a file for each number of passes and augmentation"
    parser.add_argument("--results", type=Path, default=Path("runs/finetuning.jsonl"), help=results)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folders = {}
    for name in options.datasets:
        made = name == "negatives" and not Path(name).exists()
        sizes = {"train": options.images, "val": 100}
        folders[Path(name).name] = make_negatives(options.folder / name, sizes) if made else Path(name)
    for seed in options.seeds:
        for change in options.changes:
            for name, folder in folders.items():
                key = {"change": change, "dataset": name, "seed": seed}
                if not any(key.items() <= line.items() for line in read_lines(options.results)):
                    key["AP"] = round(run_once(CHANGES[change], folder, options, seed), 4)
                    with options.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(key) + "\n")
    print(table(read_lines(options.results), list(folders)))


if __name__ == "__main__":
    main()
