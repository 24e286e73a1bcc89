"""Evaluation never pads: its batches hold images of one processed size."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from helpers.coco_by_hand import as_batch, assert_equal, make_data, pycocotools_figures
from helpers.tiny import tiny_detector
from PIL import Image

from dino_detr import DinoDetrImageProcessor
from dino_detr.data import category_ids, class_names, load_detection_dataset
from dino_detr.evaluation import CocoDetectionMetric, detections, score_results, to_coco_results
from dino_detr.evaluation.coco.results import clean_results, images_of_results
from dino_detr.evaluation.detections import detect, references


def test_an_evaluation_batch_has_one_size_and_no_padding():
    """Also where the rows say a wrong size. Every image once, its detections those that it has alone."""
    sizes = [(60, 40), (40, 60), (60, 40), (70, 40), (60, 40), (40, 60), (60, 40)]  # width, height
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
    said = [*sizes[:6], (70, 40)]
    rows = Dataset.from_dict(
        {
            "image": pictures,
            "image_id": [10 * index for index in range(7)],
            "width": [width for width, _ in said],
            "height": [height for _, height in said],
        },
        features=Features({"image": ImageFeature(), **dict.fromkeys(("image_id", "width", "height"), Value("int64"))}),
    )
    processor = DinoDetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    alone = [processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures]
    model = tiny_detector().eval()
    batches = []
    model.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0]))
    together = {found["image_id"]: found for found in detect(model, processor, rows, range(7), batch_size=3)}
    assert sorted(together) == [10 * index for index in range(7)]
    assert max(len(batch) for batch in batches) == 3
    seen = [image for batch in batches for image in batch]
    for pixels in alone:  # each image is in just one batch, as it is
        assert sum(image.shape == pixels[0].shape and torch.equal(image, pixels[0]) for image in seen) == 1
    for found in detect(model, processor, rows, range(7), batch_size=1):
        assert together[found["image_id"]]["scores"] == pytest.approx(found["scores"], abs=1e-5)


def test_an_image_that_cannot_be_read_is_named_and_has_no_detections(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40)).save(tmp_path / name)
    (tmp_path / "a.png").write_bytes(b"no image")
    rows = [
        {"image": str(tmp_path / f"{name}.png"), "image_id": n, "width": 60, "height": 40}
        for n, name in enumerate("ab")
    ]
    rows = Dataset.from_list(rows).cast_column("image", ImageFeature())
    processor = DinoDetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    messages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detections.logger, "warning", messages.append)
        (found,) = detect(tiny_detector().eval(), processor, rows, range(2), top_k=7)
    assert found["image_id"] == 1 and found["boxes"].shape == (7, 4)
    (message,) = messages
    assert message.startswith(f"{tmp_path / 'a.png'}: not an image") and message.endswith(": left out")


def test_the_truth_of_rows_is_that_of_the_annotation_file(tmp_path):
    """Crowds, areas of outlines, category ids with gaps, image ids out of order: AP against pycocotools on the file."""
    annotations, results = make_data(seed=8, num_images=16, crowds=0.4)
    (tmp_path / "images").mkdir()
    for image in annotations["images"]:
        image["file_name"] = f"{image['id']}.png"
        Image.new("L", (640, 640)).save(tmp_path / "images" / image["file_name"])
    expected = pycocotools_figures(annotations, results, tmp_path)
    boxes = [{**entry, "area": entry["bbox"][2] * entry["bbox"][3]} for entry in annotations["annotations"]]
    for changed in (
        [{**entry, "iscrowd": 0} for entry in annotations["annotations"]],
        boxes,
    ):  # or the test could not fail
        other = pycocotools_figures({**annotations, "annotations": changed}, results, tmp_path)
        assert abs(other["APs"] - expected["APs"]) > 1e-3
    pycocotools_figures(annotations, results, tmp_path)  # leaves the files
    (tmp_path / "results.json").unlink()
    rows = load_detection_dataset(str(tmp_path / "annotations.json"), "val")
    predictions, _ = as_batch(annotations, results, annotations["images"])
    truth = references(rows, predictions)
    metric = CocoDetectionMetric(category_ids(rows), class_names(rows))
    assert_equal(metric.compute(predictions=predictions, references=truth), expected)
    again = to_coco_results(predictions, category_ids(rows))
    assert_equal(score_results(again, annotations), expected)
    _, reported = images_of_results(*clean_results(again, annotations))
    for ours, theirs in zip(truth, reported, strict=True):
        assert ours["image_id"] == theirs["image_id"]
        assert np.array_equal(ours["boxes"], theirs["boxes"])
        for field in ("labels", "area", "iscrowd"):
            assert list(ours[field]) == list(theirs[field])


def test_the_truth_is_of_the_images_that_were_detected_in():
    rows = Dataset.from_list(
        [
            {"image_id": n, "objects": {"bbox": [[1, 2, 3, 4]], "category": [n], "area": [5], "iscrowd": [1]}}
            for n in (4, 2)
        ]
    )
    (truth,) = references(rows, [{"image_id": 2}])
    assert truth["boxes"].tolist() == [[1, 2, 4, 6]]
    assert {name: truth[name] for name in ("image_id", "labels", "area", "iscrowd")} == {
        "image_id": 2, "labels": [2], "area": [5], "iscrowd": [1],
    }  # fmt: skip
