"""COCO folders become rows, and rows become samples and batches."""

import json

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from PIL import Image

from dino_detr.data import category_ids, class_names, load_detection_dataset
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.samples import TrainingSamples, collate, drop_images_without_boxes

CATEGORIES = [{"id": 7, "name": "seven"}, {"id": 90, "name": "ninety"}, {"id": 3, "name": "three"}]


def annotation(id_, image_id, category_id, bbox, **fields):
    return {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": bbox, **fields}


@pytest.fixture
def content():
    """Two images with boxes, one with none; the second image's size is for the loader to find out."""
    return {
        "images": [
            {"id": 10, "file_name": "ten.png", "width": 60, "height": 40},
            {"id": 4, "file_name": "four.png"},
            {"id": 5, "file_name": "five.png", "width": 60, "height": 40},
        ],
        "annotations": [
            annotation(1, 10, 90, [1, 2, 30, 20], area=100.5, iscrowd=0),
            annotation(2, 4, 3, [0, 0, 10, 8]),
            annotation(3, 10, 7, [5, 5, 6, 6], area=36, iscrowd=1),
        ],
        "categories": CATEGORIES,
    }


@pytest.fixture
def write_folder(tmp_path):
    """A function that writes a folder of one split, train, with an image for every file name."""

    def write(content, roboflow=False):
        images = tmp_path / "train"
        images.mkdir(exist_ok=True)
        for image in content.get("images", ()):
            Image.new("RGB", (60, 40)).save(images / image["file_name"])
        file = images / "_annotations.coco.json" if roboflow else tmp_path / "annotations" / "instances_train.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        return tmp_path

    return write


@pytest.mark.parametrize("roboflow", [False, True])
def test_rows(write_folder, content, roboflow):
    rows = load_detection_dataset(str(write_folder(content, roboflow)), "train")
    assert rows["image_id"] == [10, 4, 5]
    assert [rows["width"], rows["height"]] == [[60] * 3, [40] * 3]
    assert list(rows["objects"]) == [
        {
            "id": [1, 3],
            "bbox": [[1, 2, 30, 20], [5, 5, 6, 6]],
            "category": [2, 1],
            "area": [100.5, 36],
            "iscrowd": [0, 1],
        },
        {"id": [2], "bbox": [[0, 0, 10, 8]], "category": [0], "area": [80], "iscrowd": [0]},
        {"id": [], "bbox": [], "category": [], "area": [], "iscrowd": []},
    ]
    assert rows[0]["image"].size == (60, 40)


def test_class_indices_are_ranks_of_the_ids(write_folder, content):
    """Sparse, dense and shuffled ids of the same classes give the same rows, and all come back."""
    expected = load_detection_dataset(str(write_folder(content)), "train")["objects"][:]
    for ids in ([3, 7, 90], [0, 1, 2], [1, 2, 3]):
        renumber = dict(zip([3, 7, 90], ids))
        renumbered = json.loads(json.dumps(content))
        for entry in renumbered["annotations"]:
            entry["category_id"] = renumber[entry["category_id"]]
        for entry in renumbered["categories"]:
            entry["id"] = renumber[entry["id"]]
        for categories in (renumbered["categories"], renumbered["categories"][::-1]):
            rows = load_detection_dataset(str(write_folder({**renumbered, "categories": categories})), "train")
            assert rows["objects"][:] == expected
            assert category_ids(rows) == ids
            assert class_names(rows) == ["three", "seven", "ninety"]


def test_classes_survive_what_users_do_to_rows(write_folder, content, tmp_path):
    rows = load_detection_dataset(str(write_folder(content)), "train")
    rows.select([1, 0]).shuffle(seed=0).filter(lambda row: row["image_id"] > 4).save_to_disk(tmp_path / "saved")
    rows = load_from_disk(tmp_path / "saved")
    assert (category_ids(rows), class_names(rows)) == ([3, 7, 90], ["three", "seven", "ninety"])


def test_names_that_repeat_are_told_apart(write_folder, content):
    content["categories"] = [{"id": i, "name": name} for i, name in ((3, "cell"), (7, "cell"), (90, "other"))]
    rows = load_detection_dataset(str(write_folder(content)), "train")
    assert class_names(rows) == ["cell (3)", "cell (7)", "other"]


@pytest.mark.parametrize("field", ["images", "annotations", "categories"])
def test_a_missing_list_is_named(write_folder, content, field):
    folder = write_folder(content)
    del content[field]
    write_folder(content)
    with pytest.raises(ValueError, match=rf"instances_train.json lacks {field}"):
        load_detection_dataset(str(folder), "train")


def test_missing_things_are_named(write_folder, content, tmp_path):
    folder = write_folder(content)
    with pytest.raises(FileNotFoundError, match=r"no split 'val'; it has train"):
        load_detection_dataset(str(folder), "val")
    with pytest.raises(ValueError, match=r"No data set '.*nowhere'"):
        load_detection_dataset(str(tmp_path / "nowhere"), "train")

    for name in ("ten.png", "four.png", "five.png"):
        (folder / "train" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"instances_train.json names 'ten.png', which is in none of"):
        load_detection_dataset(str(folder), "train")

    (folder / "annotations" / "instances_train.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"instances_train.json is not readable as JSON: .*line 1"):
        load_detection_dataset(str(folder), "train")


def test_missing_sizes_are_of_the_upright_image(write_folder, content):
    folder = write_folder(content)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (60, 40)).save(folder / "train" / "four.png", exif=exif)
    row = load_detection_dataset(str(folder), "train")[1]
    assert (row["width"], row["height"]) == row["image"].size == (40, 60)


@pytest.mark.parametrize(("split", "num_images", "num_boxes"), [("train", 205, 2804), ("val", 87, 1137)])
def test_bccd(bccd, split, num_images, num_boxes):
    rows = load_detection_dataset(str(bccd), split)
    content = json.loads((bccd / "annotations" / f"instances_{split}.json").read_text())
    assert len(rows) == num_images == len(content["images"])
    names = {category["id"]: category["name"] for category in content["categories"]}
    expected = {
        (entry["id"], entry["image_id"], names[entry["category_id"]], *entry["bbox"])
        for entry in content["annotations"]
        if min(entry["bbox"][2:]) > 0  # one of each split has no size
    }
    found = [
        (id_, row["image_id"], class_names(rows)[category], *bbox)
        for row in rows.remove_columns("image")
        for id_, category, bbox in zip(row["objects"]["id"], row["objects"]["category"], row["objects"]["bbox"])
    ]
    assert len(found) == num_boxes
    assert set(found) == expected
    image = rows[0]["image"]
    assert (image.mode, image.size) == ("RGB", (640, 480))


@pytest.fixture
def plain():
    return build_augmentation("none", image_sizes=[40], max_image_size=60)


def test_a_sample_without_augmentation_is_the_row(write_folder, content, plain):
    content["annotations"] = [
        annotation(1, 10, 90, [1, 2, 30, 20], area=100.5),
        annotation(2, 10, 7, [5, 5, 6, 6], iscrowd=1),
        annotation(3, 10, 7, [50, 30, 20, 20], area=400),  # half of each side lies outside
        annotation(4, 10, 7, [70, 30, 20, 20]),
        annotation(5, 10, 7, [5, 5, 0, 6]),
        annotation(6, 10, 7, [5, 5, -3, 6]),
    ]
    sample = TrainingSamples(load_detection_dataset(str(write_folder(content)), "train"), plain, seed=0)[0]
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
    for sample, pixels, labels in zip(batch_samples, batch["pixel_values"], batch["labels"]):
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
