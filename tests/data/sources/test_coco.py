"""COCO folders become rows."""

import json
import shutil

import pytest
from helpers.animals import NAMES, coco, write_json
from helpers.tiny import tiny_detector
from PIL import Image

from dino_detr import DinoDetrImageProcessor, cli
from dino_detr.data import category_ids, class_names, load_detection_dataset


def test_roboflows_dummy_category_is_no_class(tmp_path, images):
    """Neither of several classes nor of one, whose name it may share; with boxes of its own it is one."""
    folder = tmp_path / "export"
    shutil.copytree(images, folder / "train")
    path = folder / "train" / "_annotations.coco.json"

    def classes(content):
        write_json(path, content)
        rows = load_detection_dataset(str(folder), "train")
        return dict(zip(category_ids(rows), class_names(rows)))

    assert classes(coco(dummy=True)) == {1: "ant", 2: "bee", 3: "cow"}
    one = coco()
    for annotation in one["annotations"]:
        annotation["category_id"] = 1
    one["categories"] = [
        {"id": 0, "name": "drone", "supercategory": "none"},
        {"id": 1, "name": "drone", "supercategory": "drone"},
    ]
    assert classes(one) == {1: "drone"}
    one["annotations"][0]["category_id"] = 0
    assert classes(one) == {0: "drone (0)", 1: "drone (1)"}
    # categories without boxes that are not supercategories of all others stay
    ordinary = coco(ids=(0, 1, 2))
    for category in ordinary["categories"]:
        category["supercategory"] = "none"
    ordinary["annotations"] = ordinary["annotations"][:1]
    assert classes(ordinary) == {0: "ant", 1: "bee", 2: "cow"}
    assert classes({**ordinary, "categories": ordinary["categories"][:1], "annotations": []}) == {0: "ant"}


def test_results_carry_the_original_ids(tmp_path, images):
    """`dino-detr evaluate` of a Roboflow export: no figure and no detection of the dummy."""
    folder = tmp_path / "export"
    shutil.copytree(images, folder / "valid")
    write_json(folder / "valid" / "_annotations.coco.json", coco(ids=(4, 5, 60), dummy=True))
    rows = load_detection_dataset(str(folder), "val")
    tiny_detector(id2label=dict(enumerate(class_names(rows))), category_ids=category_ids(rows)).save_pretrained(
        tmp_path / "detector"
    )
    DinoDetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 96}).save_pretrained(tmp_path / "detector")
    figures, results = tmp_path / "figures.json", tmp_path / "results.json"
    command = ["evaluate", tmp_path / "detector", "--dataset", folder, "--output", figures, "--predictions", results]
    cli.main([str(part) for part in command])
    assert {entry["category_id"] for entry in json.loads(results.read_text())} == {4, 5, 60}
    per_class = json.loads(figures.read_text())["per_class"]
    assert list(per_class) == NAMES
    assert per_class["bee"]["AP"] == -1  # nothing to find: not part of the average
    # the same against the file itself, which still lists the dummy
    again = tmp_path / "again.json"
    source = folder / "valid" / "_annotations.coco.json"
    cli.main(["evaluate", str(results), "--dataset", str(source), "--output", str(again)])
    assert json.loads(again.read_text())["AR100"] == pytest.approx(json.loads(figures.read_text())["AR100"], abs=1e-6)


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
