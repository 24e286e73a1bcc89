"""Data sets of the Hub, or saved by `datasets`, give the rows that COCO files do."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from datasets import config as datasets_config
from helpers.animals import (
    BOX,
    BOX_FEATURE,
    BOXES,
    IDS,
    NAMES,
    SIZES,
    assert_same_rows,
    columns,
    features,
    write_images,
)

from dino_detr.data import category_ids, class_names, detection_rows, list_splits, load_detection_dataset
from dino_detr.data.check import check_split


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

    monkeypatch.setattr("dino_detr.data.sources.hub_datasets.load_dataset", load_dataset)
    for source in ("someone/cells-2.0", "someone/cells-2.0:small"):
        assert_same_rows(load_detection_dataset(source, "train"), ids=[0, 1, 2], image_ids=[0, 1, 2])
    assert asked == [("someone/cells-2.0", None), ("someone/cells-2.0", "small")]

    def fail(*arguments):
        raise ConnectionError("no network")

    monkeypatch.setattr("dino_detr.data.sources.hub_datasets.load_dataset", fail)
    with pytest.raises(OSError, match="no folder data/coco here, and as a data set of the Hub: no network"):
        load_detection_dataset("data/coco", "train")


def test_a_saved_file_that_was_cut_is_named(plain, tmp_path):
    plain.save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    whole = file.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 4):
        file.write_bytes(whole[:size])
        with pytest.raises(OSError, match=rf"{file.name} cannot be read, was it cut or changed\?"):
            load_detection_dataset(str(tmp_path / "saved"), "train")
