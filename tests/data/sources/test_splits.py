"""Parts of splits: of every kind of source, by position or by name, never with an image in common."""

import json
import random
import shutil

import pytest
from datasets import Dataset, DatasetDict
from helpers.animals import coco, write_images, write_json
from PIL import Image

from dino_detr.cli import main
from dino_detr.data import load_detection_dataset
from dino_detr.data.check import check_split
from dino_detr.data.sources.splits import choose_part, share_splits
from dino_detr.training import parse_options
from dino_detr.training.run import prepare


def write_coco(folder, names):
    (folder / "images" / "default").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for name in names:
        shade = int("".join(filter(str.isdigit, name)) or 0)
        Image.new("RGB", (60, 40), (shade, 9, 9)).save(folder / "images" / "default" / name)
    content = {
        "images": [{"id": i + 1, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(names)],
        "annotations": [
            {"id": i + 1, "image_id": i + 1, "category_id": 1 + i % 2, "bbox": [1, 2, 30, 20]}
            for i in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(content))
    return content


@pytest.fixture
def source(tmp_path):
    """Ten images in one annotation file, called as CVAT does."""
    write_coco(tmp_path / "data", [f"p{number}.png" for number in range(10)])
    return tmp_path / "data"


def names_of(rows) -> list[str]:
    return [image["path"].rsplit("/", 1)[-1] for image in rows.with_format("arrow")[:]["image"].to_pylist()]


PAIRS = [("[:75%]", "[75%:]"), ("[:3]", "[3:]"), ("[hash 25%:]", "[hash :25%]"), ("[hash 12.5%:]", "[hash :12.5%]")]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_parts_are_disjoint_and_whole(source, tmp_path, one, other):
    """Of a folder, a file, a saved data set and digits."""
    file = source / "annotations" / "instances_default.json"
    rows = load_detection_dataset(str(source), "default")
    DatasetDict({"default": rows}).save_to_disk(tmp_path / "saved")
    for place, split in ((source, "default"), (file, "default"), (file, "train"), (tmp_path / "saved", "default")):
        parts = [load_detection_dataset(str(place), split + part) for part in (one, other)]
        assert all(len(part) for part in parts)
        assert sorted([*parts[0]["image_id"], *parts[1]["image_id"]]) == list(range(1, 11))
        assert [part.features for part in parts] == [rows.features] * 2
        by_id = {row["image_id"]: row["objects"] for row in rows.remove_columns("image")}
        for part in parts:
            assert all(row["objects"] == by_id[row["image_id"]] for row in part.remove_columns("image"))


def test_a_part_by_hash_follows_from_the_names_alone(source, tmp_path):
    """Another order of images, other ids: the same ones are evaluated on."""
    expected = sorted(names_of(load_detection_dataset(str(source), "default[hash :30%]")))
    assert len(expected) == 3
    names = [f"p{number}.png" for number in range(10)]
    random.Random(0).shuffle(names)
    write_coco(tmp_path / "shuffled", names)
    assert sorted(names_of(load_detection_dataset(str(tmp_path / "shuffled"), "default[hash :30%]"))) == expected
    assert expected != ["p0.png", "p1.png", "p2.png"]


def test_parts_by_hash_of_any_size_share_nothing():
    """Images of one name stay together; neither part is empty."""
    for count in range(3, 40):
        keys = [str(number // 2) for number in range(count)]
        for share in (0.001, 0.2, 1 / 3, 0.5, 0.999):
            parts = [choose_part("[" + split.split("[")[1], keys, split) for split in share_splits("all", share)]
            assert sorted([*parts[0], *parts[1]]) == list(range(count))
            assert all(list(part) == sorted(part) for part in parts)
            assert not {keys[i] for i in parts[0]} & {keys[i] for i in parts[1]}
    assert share_splits("all", 0.2) == ("all[hash 20%:]", "all[hash :20%]")


@pytest.mark.parametrize("part", ["[:bla]", "[", "[]x", "[:200%]", "[10:]", "[:0]", "[hash]", "[hash :x%]", "[3]"])
def test_parts_that_are_none(source, part):
    with pytest.raises(ValueError, match=r"split 'default\[.* (is not understood: .* default\[:75%\]|has no image: )"):
        load_detection_dataset(str(source), f"default{part}")


def test_the_check_of_a_part_names_its_own_defects(source):
    """Missing files, repeated ids and bad boxes once, in the part that they are in."""
    file = source / "annotations" / "instances_default.json"
    content = json.loads(file.read_text())
    (source / "images" / "default" / "p1.png").unlink()
    content["images"].append(
        {**content["images"][0], "file_name": "p9.png"}
    )  # repeats the id of an image in the other part
    content["annotations"][2]["bbox"] = [1, 2, 0, 5]
    content["annotations"][9]["bbox"] = [1, 2, 5, -1]
    file.write_text(json.dumps(content))
    first, second = (check_split(str(source), f"default{part}") for part in ("[:5]", "[5:]"))
    assert [(f.kind, f.count) for f in first.defects] == [("missing_file", 1), ("zero_sized_box", 1)]
    assert [(f.kind, f.count) for f in second.defects] == [("repeated_image_id", 1), ("negative_box", 1)]
    assert (first.images, second.images) == (5, 6)


def test_results_are_scored_on_a_part(source, tmp_path, capsys):
    """Against the file, images of the other part are not missed."""
    file = source / "annotations" / "instances_default.json"
    rows = load_detection_dataset(str(source), "default[hash :30%]")
    results = [
        {
            "image_id": row["image_id"],
            "category_id": 1 + row["objects"]["category"][0],
            "bbox": [1, 2, 30, 20],
            "score": 1,
        }
        for row in rows.remove_columns("image")
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    for dataset in (file, source):
        command = ["evaluate", tmp_path / "results.json", "--dataset", dataset, "--split", "default[hash :30%]"]
        main([str(part) for part in [*command, "--output", tmp_path / f"{dataset.name}.figures"]])
        figures = json.loads((tmp_path / f"{dataset.name}.figures").read_text())
        assert figures["AP"] == pytest.approx(1)
    assert "dropped" not in capsys.readouterr().err


def options_of(recipe, source, tmp_path, *more):
    return parse_options([str(part) for part in (recipe, "--dataset", source, "--output_dir", tmp_path / "run", *more)])


def test_a_share_of_the_only_split_is_evaluated_on(source, recipe, tmp_path):
    """In the folder and in the file; the recipe that is kept says which part, and can be given again."""
    evaluated = []
    for place in (source, source / "annotations" / "instances_default.json"):
        options = options_of(recipe, place, tmp_path, "--val_share", "0.3")
        trainer = prepare(options)
        train, val = names_of(trainer.train_dataset.rows), names_of(trainer.eval_dataset)
        assert sorted(train + val) == [f"p{number}.png" for number in range(10)]
        evaluated.append(val)
        assert options.recipe["eval_split"] == "default[hash :30%]" and "val_share" not in options.recipe
        shutil.rmtree(tmp_path / "run")
    assert evaluated[0] == evaluated[1] and len(evaluated[0]) == 3
    parts = ["--train_split", options.recipe["train_split"], "--eval_split", options.recipe["eval_split"]]
    assert names_of(prepare(options_of(recipe, source, tmp_path, *parts)).eval_dataset) == evaluated[0]


def test_how_to_train_on_one_split_is_said(source, recipe, tmp_path):
    hint = r'--val_share 0.2, or --train_split "default\[:80%\]" --eval_split "default\[80%:\]"'
    file = source / "annotations" / "instances_default.json"
    for place, message in ((source, "no split 'train'; it has default"), (file, "is one split")):
        with pytest.raises((ValueError, FileNotFoundError), match=f"{message}.*{hint}"):
            prepare(options_of(recipe, place, tmp_path))
    with pytest.raises(ValueError, match=hint):  # the whole file would be trained on and evaluated on
        prepare(options_of(recipe, file, tmp_path, "--train_split", "default[:80%]"))
    with pytest.raises(ValueError, match=r"val_share=1\.5 must be between 0 and 1"):
        options_of(recipe, source, tmp_path, "--val_share", "1.5")
    with pytest.raises(ValueError, match="val_share takes a share of a whole split"):
        prepare(options_of(recipe, source, tmp_path, "--val_share", "0.5", "--train_split", "default[:80%]"))
    with pytest.raises(ValueError, match="eval_split has no effect here: see val_share"):
        options_of(recipe, source, tmp_path, "--val_share", "0.5", "--eval_split", "val")


def test_parts_of_a_stream_of_rows_without_ids_differ(tmp_path):
    rows = [{"image": Image.new("RGB", (9, 9)), "objects": {"bbox": [[1, 1, 5, 5]], "label": ["a"]}} for _ in range(4)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    ids = [load_detection_dataset(str(tmp_path / "saved"), split)["image_id"] for split in share_splits("train", 0.25)]
    assert sorted([*ids[0], *ids[1]]) == [0, 1, 2, 3] and len(ids[1]) == 1


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
