"""Every form in which a data set may come gives the same rows."""

import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from datasets import config as datasets_config
from helpers.tiny import tiny_detector
from PIL import Image as PILImage

from dino_detr import DinoDetrImageProcessor, cli
from dino_detr.data import category_ids, class_names, detection_rows, list_splits, load_detection_dataset
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.check import check_split
from dino_detr.data.findings import Findings
from dino_detr.data.samples import TrainingSamples, collate
from dino_detr.data.shared_rows import share_rows

NAMES = ["ant", "bee", "cow"]
SIZES = {"a.jpg": (60, 40), "b.jpg": (50, 70), "c.jpg": (64, 48)}
BOXES = {  # (class index, x, y, w, h); of class 1 there is none
    "a.jpg": [(2, 5, 4, 20.5, 10), (0, 30, 8, 25, 30)],
    "b.jpg": [],
    "c.jpg": [(0, 1, 2, 60, 44)],
}


def coco(ids=(1, 2, 3), order=(0, 1, 2), dummy=False) -> dict:
    """The annotations in COCO's form, with these category ids, the categories listed in this order."""
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(SIZES.items(), start=7)
    ]
    annotations = []
    for image in images:
        for category, x, y, w, h in BOXES[image["file_name"]]:
            annotation = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": ids[category]}
            annotations.append({**annotation, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
    categories = [{"id": ids[index], "name": NAMES[index], "supercategory": "animals"} for index in order]
    if dummy:
        categories.insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    return {"images": images, "annotations": annotations, "categories": categories}


def write_images(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        PILImage.fromarray(pixels).save(folder / name)
    return folder


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def assert_same_rows(rows: Dataset, ids=(1, 2, 3), image_ids=(7, 8, 9)):
    """As the table above says."""
    assert (class_names(rows), category_ids(rows)) == (NAMES, list(ids))
    assert list(rows["image_id"]) == list(image_ids)
    assert list(zip(rows["width"], rows["height"])) == list(SIZES.values())
    for row, (name, size) in zip(rows, SIZES.items()):
        objects = row["objects"]
        assert [(c, *box) for c, box in zip(objects["category"], objects["bbox"])] == BOXES[name]
        assert objects["area"] == [w * h for _, _, _, w, h in BOXES[name]]
        assert objects["iscrowd"] == [0] * len(BOXES[name])
        assert (row["image"].mode, row["image"].size) == ("RGB", size)
    assert [id_ for objects in rows["objects"] for id_ in objects["id"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train2017.json", "images"),
        ("annotations/train2017.json", "train2017"),
        ("train2017.json", "."),
        ("train2017.json", "images"),
        ("train2017/_annotations.coco.json", "train2017"),
    ],
)
def test_coco_files_where_people_have_them(tmp_path, annotations, images):
    file = write_json(tmp_path / annotations, coco())
    write_images(tmp_path / images)
    write_json(tmp_path / "annotations" / "captions_train2017.json", coco())
    assert_same_rows(load_detection_dataset(str(tmp_path), "train2017"))
    assert_same_rows(load_detection_dataset(str(tmp_path), "train"))
    assert_same_rows(load_detection_dataset(str(file), "train2017"))


def test_file_names_with_folders_in_them(tmp_path):
    content = coco()
    for image in content["images"]:
        image["file_name"] = f"photos/{image['file_name']}"
    file = write_json(tmp_path / "labels.json", content)
    write_images(tmp_path / "photos")
    assert_same_rows(load_detection_dataset(str(file), "train"))


def test_where_images_were_looked_for(tmp_path):
    file = write_json(tmp_path / "annotations" / "instances_val.json", coco())
    with pytest.raises(FileNotFoundError, match=r"instances_val.json names 'a.jpg', which is in none of") as error:
        load_detection_dataset(str(file), "val")
    for place in ("val", "images/val", "annotations", "images"):
        assert str(tmp_path / place) in str(error.value)


@pytest.mark.parametrize(
    ("has", "asked", "found"),
    [
        (["train", "valid"], "val", "valid"),
        (["train", "validation"], "val", "validation"),
        (["val"], "valid", "val"),
        (["val", "valid"], "valid", "valid"),
        (["val2017"], "val", "val2017"),
        (["val2014", "val2017"], "val", None),
        (["val2014"], "val2017", None),
        (["val"], "val2017", None),
        (["train", "test"], "val", None),
    ],
)
def test_synonyms_of_splits(tmp_path, has, asked, found):
    for split in has:
        content = coco()
        content["images"][0]["id"] = 100 + has.index(split)
        content["annotations"] = []
        write_json(tmp_path / split / "_annotations.coco.json", content)
        write_images(tmp_path / split)
    if found is None:
        with pytest.raises(FileNotFoundError, match=rf"no split '{asked}'; it has {', '.join(sorted(has))}"):
            load_detection_dataset(str(tmp_path), asked)
    else:
        assert load_detection_dataset(str(tmp_path), asked)["image_id"][0] == 100 + has.index(found)


def encoded(name: str, folder) -> dict:
    return {"bytes": (folder / name).read_bytes(), "path": name}


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "pictures")


def columns(images, fields, as_structs=False, **more) -> dict:
    """Columns of a data set whose objects have `fields`, functions of (index of the object, its entry in BOXES)."""
    number, objects = 0, []
    for boxes in BOXES.values():
        entries = [{name: of(number + i, box) for name, of in fields.items()} for i, box in enumerate(boxes)]
        number += len(boxes)
        objects.append(entries if as_structs else {name: [entry[name] for entry in entries] for name in fields})
    return {"image": [encoded(name, images) for name in SIZES], "objects": objects, **more}


def features(values: dict, as_structs=False, **more) -> Features:
    objects = List(values) if as_structs else {name: List(feature) for name, feature in values.items()}
    return Features({"image": Image(), "objects": objects, **more})


IDS = [3, 40, 7]  # of ants, bees and cows, out of order
BOX = {"bbox": lambda _, box: list(box[1:])}
BOX_FEATURE = {"bbox": List(Value("float32"), length=4)}


@pytest.fixture
def plain(images) -> Dataset:
    """With a ClassLabel and nothing that can be left out."""
    fields = {**BOX, "category": lambda _, box: box[0]}
    return Dataset.from_dict(
        columns(images, fields), features=features({**BOX_FEATURE, "category": ClassLabel(names=NAMES)})
    )


def test_the_usual_columns(plain):
    assert_same_rows(detection_rows(plain), ids=[0, 1, 2], image_ids=[0, 1, 2])


@pytest.mark.parametrize("field", ["category", "categories", "category_id", "label", "labels"])
@pytest.mark.parametrize("as_structs", [False, True])
def test_all_columns_in_every_shape(images, field, as_structs):
    """Struct of lists or list of structs; integers of every width; ids, areas and crowds of the data set's own."""
    fields = {
        **BOX,
        field: lambda _, box: box[0],
        "bbox_id": lambda number, _: 50 + number,
        "area": lambda number, _: 10.5 + number,
        "is_crowd": lambda number, _: number == 1,
    }
    values = {
        "bbox": List(Value("int64" if as_structs else "float64")),
        field: ClassLabel(names=NAMES),
        "bbox_id": Value("int32"),
        "area": Value("float32"),
        "is_crowd": Value("bool"),
    }
    if as_structs:
        fields["bbox"] = lambda _, box: [int(value) for value in box[1:]]
    more = {"image_id": [5, 2, 9], "width": [60, 50, 64], "height": [40, 70, 48], "extra": ["x", "y", "z"]}
    kinds = {"image_id": Value("int32"), "width": Value("int16"), "height": Value("int64"), "extra": Value("string")}
    dataset = Dataset.from_dict(
        columns(images, fields, as_structs, **more), features=features(values, as_structs, **kinds)
    )
    rows = detection_rows(dataset)
    assert rows["image_id"][:] == [5, 2, 9]
    assert rows["width"][:] == [60, 50, 64]
    assert rows[0]["objects"] == {
        "id": [50, 51],
        "bbox": [[5, 4, 20 if as_structs else 20.5, 10], [30, 8, 25, 30]],
        "category": [2, 0],
        "area": [10.5, 11.5],
        "iscrowd": [0, 1],
    }
    assert rows[1]["objects"]["bbox"] == []
    assert rows[2]["objects"]["id"] == [52]
    assert class_names(rows) == NAMES
    assert rows.column_names == ["image", "image_id", "width", "height", "objects"]


def test_classes_without_a_class_label(images):
    """Plain ids, of all splits together; with names beside them; names alone."""

    def load(fields, values, keep=(0, 1, 2)):
        train = Dataset.from_dict(columns(images, {**BOX, **fields}), features=features({**BOX_FEATURE, **values}))
        other = {"bbox": [[1, 2, 3, 4]], "category_id": [40], "category": ["bee"]}
        other = {**train[2], "objects": {name: other[name] for name in train.features["objects"]}}
        return detection_rows(train.select(keep), [Dataset.from_list([other], features=train.features)])

    ids = {"category_id": lambda _, box: IDS[box[0]]}
    names = {"category": lambda _, box: NAMES[box[0]]}
    rows = load(ids, {"category_id": Value("int64")})
    assert (class_names(rows), category_ids(rows)) == (["3", "7", "40"], [3, 7, 40])
    assert [objects["category"] for objects in rows["objects"]] == [[1, 0], [], [0]]
    rows = load(ids | names, {"category_id": Value("int32"), "category": Value("string")})
    assert (class_names(rows), category_ids(rows)) == (["ant", "cow", "bee"], [3, 7, 40])
    assert [objects["category"] for objects in rows["objects"]] == [[1, 0], [], [0]]
    assert_same_rows(load(names, {"category": Value("string")}), ids=[0, 1, 2], image_ids=[0, 1, 2])
    only_last = load(names, {"category": Value("string")}, keep=[2])
    assert class_names(only_last) == ["ant", "bee"]
    assert only_last["objects"][:] == [
        {"id": [1], "bbox": [[1, 2, 60, 44]], "category": [0], "area": [2640], "iscrowd": [0]}
    ]


@pytest.mark.parametrize("form", ["dict", "single", "parquet", "imagefolder"])
def test_folders_that_datasets_wrote(plain, images, tmp_path, form, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "saved"
    expected = {"ids": [0, 1, 2], "image_ids": [0, 1, 2]}
    if form == "dict":
        DatasetDict({"train": plain, "validation": plain.select([0])}).save_to_disk(folder)
        assert len(load_detection_dataset(str(folder), "val")) == 1
        assert list(load_detection_dataset(str(folder), "train[1:]")["image_id"]) == [1, 2]
    elif form == "single":
        plain.save_to_disk(folder)
        with pytest.raises(FileNotFoundError, match="no split 'val'; it has train"):
            load_detection_dataset(str(folder), "val")
    elif form == "parquet":
        (folder / "data").mkdir(parents=True)
        plain.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
        assert list(load_detection_dataset(str(folder), "train[:67%]")["image_id"]) == [0, 1]
    else:
        write_images(folder / "train")
        lines = [
            {"file_name": name, "objects": {"bbox": [box[1:] for box in boxes], "categories": [b[0] for b in boxes]}}
            for name, boxes in BOXES.items()
        ]
        lines[1]["objects"] = {"bbox": [[5, 5, 9, 9]], "categories": [1]}
        (folder / "train" / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        rows = load_detection_dataset(str(folder), "train")
        assert class_names(rows) == ["0", "1", "2"]
        assert [(row["image"].size, row["objects"]["category"]) for row in rows] == [
            (SIZES["a.jpg"], [2, 0]),
            (SIZES["b.jpg"], [1]),
            (SIZES["c.jpg"], [0]),
        ]
        return
    assert_same_rows(load_detection_dataset(str(folder), "train"), **expected)


def test_rows_saved_by_the_user_come_back(tmp_path, images):
    """With the original ids, through either door."""
    write_json(tmp_path / "train.json", coco(ids=IDS))
    shutil.copytree(images, tmp_path / "images")
    rows = load_detection_dataset(str(tmp_path), "train")
    rows.save_to_disk(tmp_path / "again")
    again = load_detection_dataset(str(tmp_path / "again"), "train")
    assert (class_names(again), category_ids(again)) == (["ant", "cow", "bee"], [3, 7, 40])
    assert again["objects"][:] == rows["objects"][:]
    assert again["image_id"][:] == rows["image_id"][:]


def test_saved_data_are_checked_as_folders_are(plain, tmp_path):
    """Also of a part: an image that is none goes, a box is clipped, the rest stays."""
    rows = plain.cast_column("image", Image(decode=False)).to_list()
    rows[1]["image"]["bytes"] = b"no image"
    rows[2]["objects"] = {"bbox": [[1, 2, 60, 44], [4, 8, 62, 10]], "category": [0, 1]}
    DatasetDict({"train": Dataset.from_list(rows, features=plain.features)}).save_to_disk(tmp_path / "saved")
    assert list_splits(str(tmp_path / "saved")) == ["train"]
    report = check_split(str(tmp_path / "saved"), "train[1:]")
    assert [(finding.kind, finding.count) for finding in report.defects] == [("not_an_image", 1), ("crossing_box", 1)]
    (row,) = report.rows
    assert (row["image_id"], row["width"], row["height"]) == (2, 64, 48)
    assert row["objects"]["bbox"] == [[1, 2, 60, 44], [4, 8, 60, 10]]
    assert (class_names(report.rows), category_ids(report.rows)) == (NAMES, [0, 1, 2])


def test_a_stream_is_written_to_disk(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = detection_rows(plain.to_iterable_dataset().take(3))
    assert isinstance(rows, Dataset)
    assert_same_rows(rows, ids=[0, 1, 2], image_ids=[0, 1, 2])


def test_reordered_rows(plain):
    rows = detection_rows(plain.select([2, 0]))
    assert [(row["image"].size, row["width"], row["objects"]["category"]) for row in rows] == [
        (SIZES["c.jpg"], 64, [0]),
        (SIZES["a.jpg"], 60, [2, 0]),
    ]


def test_images_are_not_decoded(plain, tmp_path):
    """Broken pixels do not matter to who reads sizes and boxes, nor missing ones where the sizes are known."""
    rows = plain.cast_column("image", Image(decode=False)).to_list()
    for row, (width, height) in zip(rows, SIZES.values()):
        row["image"]["bytes"] = row["image"]["bytes"][:700]  # the header alone
        row.update(width=width, height=height)
    sized = Features({**plain.features, "width": Value("int64"), "height": Value("int64")})
    for given in (sized, plain.features):
        broken = Dataset.from_list([{name: row[name] for name in given} for row in rows], features=given)
        assert list(detection_rows(broken)["width"]) == [60, 50, 64]
    for row in rows:
        row["image"] = {"bytes": None, "path": str(tmp_path / "nowhere.jpg")}
    assert list(detection_rows(Dataset.from_list(rows, features=sized))["width"]) == [60, 50, 64]
    unknown = Dataset.from_list([{n: r[n] for n in plain.features} for r in rows], features=plain.features)
    assert list(detection_rows(unknown)["width"]) == [0, 0, 0]  # for the check to name


def with_boxes(dataset: Dataset, change) -> Dataset:
    """Each box [x, y, w, h] of an image of a width and height changed."""

    def convert(row):
        boxes = [change(*box, *row["image"].size) for box in row["objects"]["bbox"]]
        return {"objects": {**row["objects"], "bbox": boxes}}

    return dataset.map(convert)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: with_boxes(d, lambda x, y, w, h, W, H: [x, y, x + w, y + h]), "seems to be x1, y1, x2, y2"),
        (lambda d: with_boxes(d, lambda x, y, w, h, W, H: [x / W, y / H, w / W, h / H]), "it is normalised"),
        (lambda d: d.rename_column("objects", "annotations"), r"columns image, annotations, not objects"),
        (lambda d: d.add_column("image_id", [1, 2, 1]), "image_id has values that repeat"),
        (lambda d: d.remove_columns("objects").add_column("objects", [1, 2, 3]), "objects is Value"),
        (
            lambda d: Dataset.from_list([{**row, "objects": {"bbox": row["objects"]["bbox"]}} for row in d]),
            "objects has the fields bbox; it needs bbox and one of category, categories",
        ),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_right(plain, break_it, message):
    with pytest.raises(ValueError, match=message):
        detection_rows(break_it(plain))


TEXT = {
    "iscrowd": (["0", "1", "false"], [0, 1, 0]),
    "area": (["10", "20.5", None], [10, 20.5, 2640]),
    "id": (["7", "008", None], [7, 8, 3]),
    "category_id": (["3", "40", "3"], [0, 1, 0]),
    "bbox": (
        ["[5, 4, 20.5, 10]", '["30", 8, 25, 30]', "[1, 2, 60, 44]"],
        [list(box[1:]) for boxes in BOXES.values() for box in boxes],
    ),
}


@pytest.mark.parametrize("field", TEXT)
def test_columns_of_text_that_say_numbers(images, field):
    """Never taken as absent; the category ids 3 and 40 are no names."""
    given, expected = TEXT[field]
    plain_fields = {**BOX, "category_id": lambda _, box: [3, 40, 40][box[0]]}
    fields = {**plain_fields, field: lambda number, _: given[number]}
    dataset = Dataset.from_dict(columns(images, fields))
    findings = Findings()
    rows = detection_rows(dataset.cast_column("image", Image()), findings=findings)
    name = "category" if field == "category_id" else field
    assert [value for objects in rows["objects"] for value in objects[name]] == expected
    assert category_ids(rows) == [3, 40]
    if field in ("iscrowd", "area", "id"):
        assert [(f.kind, f.examples[0].file) for f in findings.sorted()] == [("text_number", f"column objects.{field}")]


def test_columns_of_text_that_say_no_numbers_are_quoted(images):
    fields = {
        **BOX,
        "category": lambda _, box: NAMES[box[0]],
        "iscrowd": lambda number, _: ["maybe", "2", "0"][number],
        "area": lambda number, _: ["large", "-1", "7"][number],
        "id": lambda number, _: ["a", "1.5", "3"][number],
    }
    dataset = Dataset.from_dict(columns(images, fields, image_id=["img_1", "2", "3"], width=["60", "x", "64"]))
    findings = Findings()
    rows = detection_rows(dataset.cast_column("image", Image()), findings=findings)
    said = "\n".join(line for f in findings.sorted() for line in f.format_examples(9, "/"))
    for quoted in ("'maybe'", "'2'", "'large'", "'-1'", "'a'", "'1.5'", "image_id 'img_1', now 0"):
        assert quoted in said
    assert [value for objects in rows["objects"] for value in objects["iscrowd"]] == [0, 0, 0]
    assert [value for objects in rows["objects"] for value in objects["area"]] == [205, 750, 7]
    assert list(rows["image_id"]) == [0, 1, 2] and list(rows["width"]) == [60, 50, 64]
    boxes = Dataset.from_dict(columns(images, {"bbox": lambda *_: "5;4;20;10", "category": lambda *_: "ant"}))
    with pytest.raises(ValueError, match=r"row 0: objects\.bbox is '5;4;20;10'; expected four numbers"):
        detection_rows(boxes.cast_column("image", Image()))


def test_crowds_that_are_neither_0_nor_1_are_named(images):
    fields = {**BOX, "category": lambda _, box: NAMES[box[0]], "iscrowd": lambda number, _: [1, 2, -1][number]}
    findings = Findings()
    rows = detection_rows(Dataset.from_dict(columns(images, fields)).cast_column("image", Image()), findings=findings)
    assert [value for objects in rows["objects"] for value in objects["iscrowd"]] == [1, 0, 0]
    (finding,) = findings.sorted()
    assert (finding.kind, finding.count, finding.examples[0].value) == ("unusable_iscrowd", 2, "objects.iscrowd 2")


def test_text_image_ids_that_are_numbers_are_those(images, plain):
    rows = detection_rows(plain.add_column("image_id", ["0009", "2", "5.0"]))
    assert list(rows["image_id"]) == [9, 2, 5]
    for repeated in (["1", "01", "2"], [1.5, 2, 3]):
        assert list(detection_rows(plain.add_column("image_id", repeated))["image_id"]) == [0, 1, 2]


def test_lists_of_different_lengths_are_named(plain):
    rows = plain.cast_column("image", Image(decode=False)).to_list()
    rows[2]["objects"]["category"].append(1)
    with pytest.raises(ValueError, match=r"row 2 has 1 of objects.bbox, but 2 of objects.category"):
        detection_rows(Dataset.from_list(rows, features=plain.features))


def test_hub_ids(monkeypatch, plain):
    """`user/name` and `user/name:config` are what `load_dataset` is asked for."""
    asked = []

    def load_dataset(*arguments):
        asked.append(arguments)
        return DatasetDict({"train": plain})

    monkeypatch.setattr("dino_detr.data.hub_datasets.load_dataset", load_dataset)
    for source in ("someone/cells-2.0", "someone/cells-2.0:small"):
        assert_same_rows(load_detection_dataset(source, "train"), ids=[0, 1, 2], image_ids=[0, 1, 2])
    assert asked == [("someone/cells-2.0", None), ("someone/cells-2.0", "small")]

    def fail(*arguments):
        raise ConnectionError("no network")

    monkeypatch.setattr("dino_detr.data.hub_datasets.load_dataset", fail)
    with pytest.raises(OSError, match="no folder data/coco here, and as a data set of the Hub: no network"):
        load_detection_dataset("data/coco", "train")


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


@pytest.fixture
def small_files(tmp_path, monkeypatch):
    """Rows of a megabyte and more are mapped, from files in the folder given."""
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("dino_detr.data.shared_rows.SMALLEST_FILE", 2**20)
    return tmp_path / "cache" / "dino_detr"


@pytest.fixture
def many(tmp_path, small_files) -> Dataset:
    """20,000 images with seven boxes each, about 10 MB."""
    folder = tmp_path / "many"
    (folder / "train").mkdir(parents=True)
    PILImage.new("RGB", (60, 40)).save(folder / "train" / "0.png")
    images, annotations = [], []
    for number in range(20_000):
        if number:
            os.link(folder / "train" / "0.png", folder / "train" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 60, "height": 40})
        for box in range(7):
            annotation = {"id": 7 * number + box + 1, "image_id": number, "category_id": box}
            annotations.append({**annotation, "bbox": [box, 1, 9.5, number % 30 + 1], "area": 5, "iscrowd": 0})
    categories = [{"id": number, "name": f"class {number}"} for number in range(7)]
    write_json(
        folder / "annotations" / "instances_train.json",
        {"images": images, "annotations": annotations, "categories": categories},
    )
    return load_detection_dataset(str(folder), "train")


def test_annotations_are_one_mapped_file(many, small_files, tmp_path):
    """Nothing of it goes to a process that is started afresh, and whoever loads it again finds the file."""
    (file,) = small_files.iterdir()
    assert file.stat().st_size > 8e6
    assert [entry["filename"] for entry in many.cache_files] == [str(file)]
    samples = TrainingSamples(many, None, seed=0)
    assert len(pickle.dumps(samples.rows)) < 50e3
    again = load_detection_dataset(str(tmp_path / "many"), "train")
    assert [entry["filename"] for entry in again.cache_files] == [str(file)]
    assert again[19_999]["objects"]["id"] == list(range(7 * 19_999 + 1, 7 * 20_000 + 1))


def test_a_mapped_file_that_was_cut_is_written_anew(many, small_files, tmp_path):
    """As a full disk or a crash leaves it."""
    (file,) = small_files.iterdir()
    whole = file.read_bytes()
    objects = many[19_999]["objects"]
    for size in (0, 1000, len(whole) - 1):
        cut = file.with_suffix(".cut")
        cut.write_bytes(whole[:size])
        cut.replace(file)  # the rows above are mapped from the old one
        again = load_detection_dataset(str(tmp_path / "many"), "train")
        assert again[19_999]["objects"] == objects
        assert file.read_bytes() == whole and list(small_files.iterdir()) == [file]


def test_a_saved_file_that_was_cut_is_named(plain, tmp_path):
    plain.save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    whole = file.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 4):
        file.write_bytes(whole[:size])
        with pytest.raises(OSError, match=rf"{file.name} cannot be read, was it cut or changed\?"):
            load_detection_dataset(str(tmp_path / "saved"), "train")


def private_memory(pid: int) -> float:
    """MiB that are no other process's too."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        sizes = {line.split()[0]: int(line.split()[1]) for line in file.readlines()[1:]}
    return (sizes["Private_Dirty:"] + sizes["Private_Clean:"]) / 1024


class Annotations(torch.utils.data.Dataset):
    """What a worker reads of the samples, but for the pixels."""

    def __init__(self, samples: TrainingSamples):
        self.rows = samples.rows.remove_columns("image")

    def __getitem__(self, index: int) -> int:
        return len(self.rows[index]["objects"]["bbox"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_annotation_memory_does_not_multiply_with_workers(many):
    """Reading all rows adds less than 6 MiB to a forked worker; a Python list of them would add over 100."""
    samples = TrainingSamples(many, None, seed=0)
    loader = torch.utils.data.DataLoader(
        Annotations(samples),
        batch_size=500,
        sampler=torch.randperm(20_000, generator=torch.Generator().manual_seed(0)).tolist(),
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    batches = iter(loader)
    total = int(next(batches).sum() + next(batches).sum())
    workers = [worker.pid for worker in batches._workers]
    before = [private_memory(pid) for pid in workers]
    total += sum(int(batch.sum()) for batch in batches)
    assert total == 140_000
    grown = [private_memory(pid) - first for pid, first in zip(workers, before)]
    assert max(grown) < 6


def test_a_cache_that_cannot_be_written_to(many, small_files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "file")
    table = many.with_format("arrow")[:]
    rows = share_rows(table.replace_schema_metadata(many.features.arrow_schema.metadata))
    assert rows.cache_files == []
    assert rows[7]["objects"] == many[7]["objects"]
    assert rows.features == many.features
