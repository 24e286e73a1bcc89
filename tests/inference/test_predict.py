"""Promise 16: `predict` and `evaluate` over the validation images find what the trainer's evaluation found."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.launching import RECIPE
from helpers.tiny import tiny_detector
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

from dino_detr import DinoDetrImageProcessor, inference
from dino_detr.cli import main
from dino_detr.inference.output_folder import name_pictures
from dino_detr.training import parse_options, prepare

SIZES = [(96, 64), (64, 96), (80, 80), (96, 64), (120, 60), (64, 96)]  # width, height
ORIENTATION = 0x0112  # an EXIF tag


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A detector that finds things of all scores in any image, close together: some only their last digits apart."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny_detector()
    model.config.category_ids = [3, 8, 11]
    model.save_pretrained(folder)
    DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


def predict(checkpoint, images, output, *options) -> list[dict]:
    main(["predict", str(checkpoint), str(images), "--output", str(output), *options])
    return json.loads((output / "detections.json").read_text())


@pytest.fixture(scope="module")
def data(checkpoint, tmp_path_factory):
    """A COCO folder of images of several sizes, one turned by EXIF; its truth is what is found, more or less."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "annotations").mkdir()
    (folder / "val").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, (width, height) in enumerate(SIZES):
        exif, pixels = Image.Exif(), rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if number == 1:
            exif[ORIENTATION] = 6  # to be turned by 90 degrees
            width, height = height, width
        Image.fromarray(pixels).resize(SIZES[number]).save(folder / "val" / f"{number}.png", exif=exif)
        images.append({"id": 50 - number, "file_name": f"{number}.png", "width": width, "height": height})
    for number, entry in enumerate(predict(checkpoint, folder / "val", folder / "out", "--threshold", "0")):
        assert (entry["width"], entry["height"]) == (images[number]["width"], images[number]["height"])
        for rank in range(number % 2, 30, 3):
            detection = entry["detections"][rank]
            x1, y1, x2, y2 = detection["box"]
            box = [x1, y1, (x2 - x1) * (0.713 + rank / 100), y2 - y1]  # on no IoU threshold
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": images[number]["id"],
                    "category_id": detection["category_id"],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": category_id, "name": name} for category_id, name in zip((3, 8, 11), ("cat", "dog", "emu"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder


def pycocotools_ap(annotation_file, results) -> list[float]:
    truth = COCO(str(annotation_file))
    judge = COCOeval(truth, truth.loadRes(results), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[:3].tolist()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_predict_and_evaluate_give_the_trainers_average_precision(batch_size, checkpoint, data, tmp_path):
    recipe = {**RECIPE, "dataset": str(data), "train_split": "val", "model": str(checkpoint), "model_config": {}}
    recipe |= {"image_sizes": [64], "max_image_size": 96, "per_device_eval_batch_size": batch_size}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trainer = prepare(parse_options([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run")]))
    figures = trainer.evaluate()
    expected = [figures[f"eval_{name}"] for name in ("AP", "AP50", "AP75")]
    assert 0.2 < expected[0] < 0.9

    annotation_file = data / "annotations" / "instances_val.json"
    ids = {image["file_name"]: image["id"] for image in json.loads(annotation_file.read_text())["images"]}
    results = [
        {
            "image_id": ids[entry["image"].rpartition("/")[2]],
            "category_id": detection["category_id"],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": detection["score"],
        }
        for entry in predict(checkpoint, data / "val", tmp_path / "out", "--threshold", "0")
        for detection in entry["detections"]
        for x1, y1, x2, y2 in [detection["box"]]
    ]
    assert pycocotools_ap(annotation_file, results) == pytest.approx(expected, abs=1e-4)

    again = ["--dataset", str(annotation_file), "--output", str(tmp_path / "again.json")]
    main(
        ["evaluate", str(tmp_path / "out" / "results.json"), *again]
    )  # its images are known by the names of their files
    again = json.loads((tmp_path / "again.json").read_text())
    assert [again[name] for name in ("AP", "AP50", "AP75")] == pytest.approx(expected, abs=1e-4)

    files = {"--output": tmp_path / "figures.json", "--predictions": tmp_path / "results.json"}
    main(["evaluate", str(checkpoint), "--dataset", str(data), *(str(part) for pair in files.items() for part in pair)])
    figures = json.loads(files["--output"].read_text())
    assert [figures[name] for name in ("AP", "AP50", "AP75")] == pytest.approx(expected, abs=1e-4)
    assert set(figures["per_class"]) == {"cat", "dog", "emu"}
    assert set(figures["per_class"]["cat"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    assert pycocotools_ap(annotation_file, str(files["--predictions"])) == pytest.approx(expected, abs=1e-4)


def test_duplicates_can_be_left_out(checkpoint, data, tmp_path):
    """Of `predict` and `evaluate` alike: a box once, and none over another by more than 0.05."""
    options = ["--one_label_per_query", "--nms_threshold", "0.05"]
    with_all = predict(checkpoint, data / "val", tmp_path / "all", "--threshold", "0")
    single = predict(checkpoint, data / "val", tmp_path / "single", "--threshold", "0", options[0])
    suppressed = predict(checkpoint, data / "val", tmp_path / "suppressed", "--threshold", "0", *options)
    for every, one, apart in zip(with_all, single, suppressed):
        assert len(every["detections"]) == 3 * len(one["detections"]) == 60  # classes, queries
        boxes = [found["box"] for found in apart["detections"]]
        overlap = box_iou(torch.tensor(boxes), torch.tensor(boxes)).fill_diagonal_(0)
        assert len(boxes) > 1 and overlap.max() <= 0.05 + 1e-3
    assert sum(len(entry["detections"]) for entry in suppressed) < 6 * 20
    main(["evaluate", str(checkpoint), "--dataset", str(data), "--predictions", str(tmp_path / "r.json"), *options])
    counts = Counter(row["image_id"] for row in json.loads((tmp_path / "r.json").read_text()))
    assert [counts[50 - number] for number in range(6)] == [len(entry["detections"]) for entry in suppressed]


def test_predict_is_called_from_python(checkpoint, data, tmp_path, capsys):
    """With the verb's results, which it returns too, and each image opened once."""
    said = predict(checkpoint, data / "val", tmp_path / "verb", "--threshold", "0.1")
    opened, watching = Counter(), True

    def watch(event, arguments):
        if watching and event == "open" and str(arguments[0]).startswith(str(data / "val")):
            opened[Path(arguments[0]).name] += 1

    sys.addaudithook(watch)
    returned = inference.predict(checkpoint, [data / "val"], tmp_path / "python", threshold=0.1)
    watching = False
    assert returned == said == json.loads((tmp_path / "python" / "detections.json").read_text())
    assert opened == {f"{number}.png": 1 for number in range(len(SIZES))}
    with pytest.raises(FileExistsError, match="choose another"):
        inference.predict(checkpoint, [data / "val"], tmp_path / "python")


@pytest.mark.parametrize("seed", range(20))
def test_names_of_pictures_never_meet(seed):
    import random

    draw = random.Random(seed)
    stems = [draw.choice(["x", "X", "x_1", "x_2", "x_1_1", "y"]) for _ in range(12)]
    taken = {"x.jpg", "Y.JPG"} if seed % 2 else set()
    names = name_pictures(stems, taken)
    assert len({name.casefold() for name in names}) == len(stems)
    assert not {name.casefold() for name in names} & {name.casefold() for name in taken}
    assert all(name.startswith(stem) for name, stem in zip(names, stems))
