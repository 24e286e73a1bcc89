"""Rows become samples, and samples batches, with the values of the plain ways."""

import json

import numpy as np
import pytest
import torch
from helpers.coco_files import annotation
from helpers.image_folders import PHOTOGRAPHS
from PIL import Image
from transformers import DetrImageProcessor

from dino_detr import DinoDetrImageProcessor
from dino_detr.data import load_detection_dataset
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.decoding import decode_rgb
from dino_detr.data.samples import TrainingSamples, collate, drop_images_without_boxes
from dino_detr.training import parse_options
from dino_detr.training.run import prepare


@pytest.fixture
def unaugmented():
    return build_augmentation("none", image_sizes=[40], max_image_size=60)


def test_a_sample_without_augmentation_is_the_row(write_folder, content, unaugmented):
    content["annotations"] = [
        annotation(1, 10, 90, [1, 2, 30, 20], area=100.5),
        annotation(2, 10, 7, [5, 5, 6, 6], iscrowd=1),
        annotation(3, 10, 7, [50, 30, 20, 20], area=400),  # half of each side lies outside
        annotation(4, 10, 7, [70, 30, 20, 20]),
        annotation(5, 10, 7, [5, 5, 0, 6]),
        annotation(6, 10, 7, [5, 5, -3, 6]),
    ]
    sample = TrainingSamples(load_detection_dataset(str(write_folder(content)), "train"), unaugmented, seed=0)[0]
    assert sample["image"].shape == (3, 40, 60)
    assert sample["image"].dtype == torch.uint8
    first, second = sample["annotation"]["annotations"]
    assert sample["annotation"]["image_id"] == 10
    assert first == {"bbox": [1, 2, 30, 20], "category_id": 2, "area": 100.5, "iscrowd": 0}
    assert second["bbox"] == [50, 30, 10, 10]


def test_images_without_boxes_are_dropped_unopened(write_folder, content):
    content["annotations"] = [
        annotation(1, 10, 90, [1, 2, 30, 20]),
        annotation(2, 4, 3, [1, 1, 5, 5], iscrowd=1),
        annotation(3, 4, 3, [1, 1, 0, 5]),
    ]
    folder = write_folder(content)
    content["images"][1].update(width=60, height=40)
    write_folder(content)
    rows = load_detection_dataset(str(folder), "train")
    for name in ("ten.png", "four.png", "five.png"):
        (folder / "train" / name).write_bytes(b"not an image")
    assert drop_images_without_boxes(rows)["image_id"] == [10]


@pytest.fixture(params=["reference", "large_scale_jitter", "finetune"])
def samples(write_folder, content, request):
    """Three different noise images under each augmentation."""
    folder = write_folder(content)
    for seed, image in enumerate(content["images"]):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "train" / image["file_name"])
    rows = load_detection_dataset(str(folder), "train")
    sizes = [40] if request.param == "large_scale_jitter" else [24, 32, 40]
    return TrainingSamples(rows, build_augmentation(request.param, sizes, 60), seed=3)


@pytest.mark.parametrize(
    ("name", "sizes"), [("reference", [240, 320]), ("large_scale_jitter", [400]), ("finetune", [240, 320])]
)
def test_areas_follow_resizes_and_crops(write_folder, content, name, sizes):
    """A white rectangle's area, and half of it for an object that fills half of its box, by counting white pixels."""
    folder = write_folder(content)
    pixels = np.zeros((400, 600, 3), dtype=np.uint8)
    pixels[100:300, 150:450] = 255
    Image.fromarray(pixels).save(folder / "train" / "ten.png")
    box = [150, 100, 300, 200]
    content["annotations"] = [annotation(1, 10, 90, box, area=60000), annotation(2, 10, 7, box, area=30000)]
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    rows = load_detection_dataset(str(folder), "train")
    samples = TrainingSamples(rows, build_augmentation(name, sizes, 480, photometric_distort=False), seed=0)
    areas = []
    for epoch in range(20):
        samples.set_epoch(epoch)
        sample = samples[0]
        full, half = sample["annotation"]["annotations"]
        x, y, w, h = (round(value) for value in full["bbox"])
        around = sample["image"][0, max(y - 2, 0) : y + h + 2, max(x - 2, 0) : x + w + 2]  # not what is filled in
        white = float(around.sum() / 255)
        areas.append(white)
        assert full["area"] == pytest.approx(white, rel=0.02)
        assert half["area"] == pytest.approx(white / 2, rel=0.02)
    assert max(areas) > 2 * min(areas)


def same(first, second):
    return torch.equal(first["image"], second["image"]) and first["annotation"] == second["annotation"]


def test_samples_depend_on_seed_epoch_and_index_only(samples):
    epochs = []
    for epoch in range(3):
        samples.set_epoch(epoch)
        epochs.append([samples[i] for i in range(3)])
    assert not all(same(*pair) for pair in zip(epochs[0], epochs[1]))

    # Workers that live on from epoch to epoch, and draw out of order from a torch generator in another state.
    torch.manual_seed(17)
    loader = torch.utils.data.DataLoader(
        samples, batch_size=None, sampler=[2, 0, 1], num_workers=2, persistent_workers=True
    )
    for epoch in range(3):
        samples.set_epoch(epoch)
        for index, sample in zip([2, 0, 1], loader):
            assert same(sample, epochs[epoch][index])

    other_seed = TrainingSamples(samples.rows, samples.augmentation, seed=4)
    assert not all(same(other_seed[i], epochs[0][i]) for i in range(3))


def test_samples_leave_torchs_generators_alone(samples, monkeypatch):
    reseeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    before = torch.get_rng_state()
    samples[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert not reseeded


def test_collate(samples):
    """A batch is padded, and its boxes, scaled back by hand, are the samples'; one of its images has no box."""
    batch_samples = [samples[i] for i in range(3)]
    batch = collate(batch_samples)
    for sample, pixels, labels in zip(batch_samples, batch["images"], batch["labels"]):
        height, width = sample["image"].shape[1:]
        assert labels["size"].tolist() == labels["orig_size"].tolist() == [height, width]
        assert torch.equal(pixels[:, :height, :width], sample["image"])
        assert pixels[:, height:].sum() == pixels[:, :, width:].sum() == 0
        annotations = sample["annotation"]["annotations"]
        assert labels["class_labels"].tolist() == [entry["category_id"] for entry in annotations]
        boxes = torch.tensor([entry["bbox"] for entry in annotations]).reshape(-1, 4)
        boxes[:, :2] += boxes[:, 2:] / 2
        torch.testing.assert_close(labels["boxes"] * torch.tensor([width, height, width, height]), boxes)
    assert len(batch["labels"][2]["boxes"]) == 0


@pytest.fixture
def photographs():
    """Three photographs of different sizes, channels last and not; one box each."""
    annotation = {"image_id": 1, "annotations": [{"bbox": [1, 2, 30, 40], "category_id": 0, "area": 9.0, "iscrowd": 0}]}
    pixels = decode_rgb({"path": str(PHOTOGRAPHS[0]), "bytes": None})
    images = [pixels[:, :200], pixels[:, :, :300], pixels[:, 50:150, 20:100].contiguous()]
    return [{"image": image, "annotation": annotation, "noise_seed": 5, "unreadable": []} for image in images]


def test_a_batch_normalised_late_is_the_processors(photographs):
    """Bit for bit what transformers' own processor makes of each image alone, 0 in the padding."""
    processor = DinoDetrImageProcessor()
    batch = collate(photographs)
    assert batch["images"].dtype == torch.uint8
    sizes = torch.stack([label["size"] for label in batch["labels"]])
    late = processor.normalize_padded(batch["images"], sizes)

    images = [sample["image"] for sample in photographs]
    expected = DetrImageProcessor(do_resize=False)(images, return_tensors="pt")
    annotations = [sample["annotation"] for sample in photographs]
    at_once = processor(images, annotations, do_resize=False, return_tensors="pt")
    for found in (late, at_once):
        for name in ("pixel_values", "pixel_mask"):
            assert found[name].dtype == expected[name].dtype
            assert torch.equal(found[name], expected[name])
            assert found[name].is_contiguous()
    for label, other in zip(batch["labels"], at_once["labels"]):
        assert label.keys() == other.keys()
        assert all(torch.equal(label[name], other[name]) for name in label)

    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    by_hand = (images[0].double() / 255 - mean) / std
    assert (late["pixel_values"][0, :, :200] - by_hand).abs().max() < 1e-6


def test_pad_size(photographs):
    images = [sample["image"] for sample in photographs]
    pad_size = {"height": 500, "width": 700}
    padded = DinoDetrImageProcessor()(images, do_resize=False, pad_size=pad_size, return_tensors="pt")
    expected = DetrImageProcessor(do_resize=False)(images, pad_size=pad_size, return_tensors="pt")
    assert torch.equal(padded["pixel_values"], expected["pixel_values"])
    with pytest.raises(ValueError, match="pad_size 500 x 600 is less than an image's 427 x 640"):
        DinoDetrImageProcessor()(images, do_resize=False, pad_size={"height": 500, "width": 600}, return_tensors="pt")


def test_workers_send_bytes_and_the_model_gets_floats(recipe, tmp_path):
    """Through the trainer, with accumulation: the values are those of the processor on the samples."""
    options = ["--gradient_accumulation_steps", "2", "--dataloader_num_workers", "1"]
    trainer = prepare(parse_options([str(recipe), *options, "--output_dir", str(tmp_path / "run")]))
    loader = trainer.get_train_dataloader()
    assert {batch["images"].dtype for batch in loader} == {torch.uint8}
    batches, _ = trainer.get_batch_samples(iter(loader), 2, trainer.args.device)
    assert len(batches) == 2
    order = list(trainer._get_train_sampler())
    for start, batch in zip((0, 2), batches):
        samples = [trainer.train_dataset[index] for index in order[start : start + 2]]
        images, annotations = ([sample[name] for sample in samples] for name in ("image", "annotation"))
        expected = trainer.processor(images, annotations, do_resize=False, return_tensors="pt")
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(batch["pixel_mask"], expected["pixel_mask"])
        assert [label["image_id"] for label in batch["labels"]] == [label["image_id"] for label in expected["labels"]]
    assert trainer.step.batches[1] is batches[1]  # what a dump of the step would hold
