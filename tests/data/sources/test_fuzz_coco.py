"""Annotation files, results files and columns changed at random: what goes in comes out, or is a named problem."""

import copy
import json
import math
import random

import numpy as np
import pytest
from datasets import Dataset, Image
from PIL import Image as PILImage

from dino_detr.data import class_names, detection_rows, load_detection_dataset
from dino_detr.data.findings import KINDS, Findings
from dino_detr.data.numbers import Ids
from dino_detr.data.sources.annotation_json import CocoAnnotations, read_json
from dino_detr.data.sources.coco import clean_annotations
from dino_detr.evaluation import score_results

JUNK = [
    None, True, False, 0, -1, 1, 1.0, 1.5, 2**62, 2**63, 10**30, 10**400, -(2**70), 1e300, math.nan, math.inf,
    -math.inf, "", " ", "1", "000001", "1.0", "1.5", "-1", "1e300", "9" * 30, "nan", "true", "False", "x", "img_1",
    "\ud800", "a\0b", "é", "../p0.png", "/etc/passwd", "[1, 2, 3, 4]", "[1, 2", "[[[[1]]]]", [], {}, [1, 2, 3, 4],
    ["1", "2", "3", "4"], [1, 2, 3], [None] * 4, {"id": 1}, [[1, 2, 3, 4]], "1_000", "\u0661",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "images").mkdir()
    for number in range(4):
        PILImage.new("RGB", (40, 30)).save(folder / "images" / f"p{number}.png")
    return folder


def valid() -> dict:
    return {
        "images": [{"id": i + 1, "file_name": f"p{i}.png", "width": 40, "height": 30} for i in range(4)],
        "annotations": [
            {"id": 3 * i + k + 1, "image_id": i + 1, "category_id": 2 * k + 1, "bbox": [2.5 * k, 3, 10 + i, 8]}
            | {"area": 80.0, "iscrowd": int(k == 2)}
            for i in range(4)
            for k in range(3)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 5, "name": "emu"}],
    }


def valid_results() -> list[dict]:
    return [
        {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 0.5}
        for entry in valid()["annotations"]
    ]


def places(content, path=()):
    """The path of every value in a tree."""
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def change(content, rng: random.Random):
    """Some values replaced, deleted, repeated or written otherwise."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        paths = [path for path in places(content) if len(path) > 1] or list(places(content))
        if not paths:
            break
        *path, key = rng.choice(paths)
        parent = content
        for step in path:
            parent = parent[step]
        kind = rng.randrange(5)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif kind == 2:
            parent[key] = json.dumps(parent[key])
        elif kind == 3 and isinstance(parent[key], int):
            parent[key] = float(parent[key]) if abs(parent[key]) < 2**63 else 0.5
        else:
            parent[key] = copy.deepcopy(rng.choice(JUNK))
    return content


def damage(text: bytes, rng: random.Random) -> bytes:
    """The bytes cut, some of them changed, or in another encoding."""
    kind = rng.randrange(4)
    if kind == 0:
        return text[: rng.randrange(len(text))]
    if kind == 1:
        changed = bytearray(text)
        for _ in range(rng.choice([1, 3, 10])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 2:
        return text.decode().encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"]))
    start = rng.randrange(len(text))
    return text[:start] + text[start + rng.randrange(50) :]


def is_one_line(error: Exception, *names: str) -> bool:
    return "\n" not in str(error) and any(name in str(error) for name in names) and len(str(error)) < 2000


def dropped(findings: Findings, thing: str) -> int:
    return sum(f.count for f in findings.sorted() if (f.action, KINDS[f.kind].thing) == ("drop", thing))


def check_rows(rows: Dataset, content: dict, findings: Findings) -> None:
    """Images and annotations in are those out and those named; what is out can be trained on."""
    assert len(content["images"]) == len(rows) + dropped(findings, "image")
    objects = rows["objects"][:]
    ids = Ids(entry.get("id") if isinstance(entry, dict) else None for entry in content["images"])
    listed = {ids.read(entry["id"]) for entry in content["images"] if usable(entry)} - {None}
    kept = {entry["file_name"] for entry in content["images"] if usable(entry)}
    kept &= {path["path"].split("/images/")[-1] for path in rows.with_format("arrow")[:]["image"].to_pylist()}
    gone = listed - {ids.read(e["id"]) for e in content["images"] if usable(e) and e["file_name"] in kept}
    went_along = sum(isinstance(e, dict) and ids.read(e.get("image_id")) in gone for e in content["annotations"])
    out = sum(len(entry["id"]) for entry in objects)
    named = dropped(findings, "box")
    assert out + named <= len(content["annotations"]) <= out + named + went_along
    all_ids = [id_ for entry in objects for id_ in entry["id"]]
    assert len(set(all_ids)) == len(all_ids)
    assert len(set(rows["image_id"])) == len(rows)
    for entry in objects:
        boxes = np.array(entry["bbox"]).reshape(-1, 4)
        assert np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all() and (abs(boxes) < 1e12).all()
        assert all(0 <= label < len(class_names(rows)) for label in entry["category"])
        assert set(entry["iscrowd"]) <= {0, 1} and all(0 <= area < math.inf for area in entry["area"])
    for finding in findings.sorted():
        for line in [finding.format(), *finding.format_examples(5, "/")]:
            assert "\n" not in line and line.encode("utf-8") and len(line) < 2000


def usable(entry) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("file_name"), str) and "id" in entry


def is_read(file, content=None) -> bool:
    """Whether an annotation file could be read; then rows and findings make up its content, else one line names it."""
    findings = Findings()
    try:
        rows = load_detection_dataset(str(file), "train", findings)
    except (ValueError, OSError) as error:
        assert is_one_line(error, "train.json"), error
        return False
    check_rows(rows, read_json(file, CocoAnnotations) if content is None else content, findings)
    return True


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_annotation_files_with_changed_values(folder, first):
    read = 0
    for seed in range(first, first + 50):
        print(f"seed {seed}")
        content = change(valid(), random.Random(seed))
        file = folder / "train.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        read += is_read(file, content)
    assert read > 30


def test_damaged_annotation_files(folder):
    read = 0
    for seed in range(250):
        print(f"seed {seed}")
        file = folder / "train.json"
        file.write_bytes(damage(json.dumps(valid()).encode(), random.Random(seed)))
        read += is_read(file)
    assert read > 40


def test_results_and_annotations_that_are_scored(tmp_path):
    """Read from files: one line that names the row, or figures that are numbers."""
    scored = 0
    for seed in range(250):
        print(f"seed {seed}")
        rng = random.Random(seed)
        results = change(valid_results(), rng) if seed % 2 else valid_results()
        annotations = valid() if seed % 2 and seed % 3 else change(valid(), rng)
        (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
        (tmp_path / "annotations.json").write_text(json.dumps(annotations), encoding="utf-8")
        findings = Findings()
        try:
            annotations = read_json(tmp_path / "annotations.json", CocoAnnotations)
            figures = score_results(read_json(tmp_path / "results.json"), annotations, findings=findings)
        except ValueError as error:
            assert is_one_line(error, "results[", "annotation", "results are no list", "results.json"), error
            continue
        cleaned = clean_annotations(annotations)
        assert len(annotations["annotations"]) == len(cleaned["annotations"]) + dropped(findings, "box")
        assert len(annotations["images"]) == len(cleaned["images"]) + dropped(findings, "image")
        assert all(-1 <= figures[name] <= 1 for name in ("AP", "AP50", "AR100", "APs"))
        scored += 1
    assert scored > 70


def retype(values: list, rng: random.Random) -> list:
    """A column in which all values are of another type, or some are."""
    kind = rng.randrange(6)
    if kind == 0:
        return [str(value) for value in values]
    if kind == 1:
        return [json.dumps(value) for value in values]
    if kind == 2:
        return [float(value) if isinstance(value, int) else value for value in values]
    if kind == 3:
        return [None if rng.random() < 0.3 else value for value in values]
    if kind == 4:
        return [rng.choice(["1", "x", "0", "1.5", "true", str(value)]) for value in values]
    return [rng.choice([0, -1, 2**62, 7]) if isinstance(value, int) else value for value in values]


def test_columns_of_datasets_with_changed_types():
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    read = 0
    for seed in range(250):
        print(f"seed {seed}")
        rng = random.Random(seed)
        columns = {"image_id": [4, 2, 7], "width": [40] * 3, "height": [30] * 3}
        fields = {"id": [1, 2, 3], "category_id": [1, 3, 1], "area": [80.0, 70.0, 60.0], "iscrowd": [0, 1, 0]}
        fields["bbox"] = [[2, 3, 10, 8], [2.5, 3, 11, 8], [20, 3, 12, 8]]
        fields["category"] = ["cat", "dog", "cat"]
        for _ in range(rng.choice([1, 1, 2, 4])):
            part = rng.choice([columns, fields, fields])
            name = rng.choice(list(part))
            part[name] = retype(part[name], rng)
        objects = [{name: [values[row]] for name, values in fields.items()} for row in range(3)]
        try:
            dataset = Dataset.from_dict({"image": [image] * 3, "objects": objects, **columns}).cast_column(
                "image", Image()
            )
        except (ValueError, TypeError):  # Arrow has no such column
            continue
        findings = Findings()
        try:
            rows = detection_rows(dataset.cast_column("image", Image()), findings=findings)
        except ValueError as error:
            assert is_one_line(error, "objects", "image_id"), error
            continue
        read += 1
        assert len(rows) == 3 and all(len(entry["bbox"]) == 1 for entry in rows["objects"])
        assert all(set(entry["iscrowd"]) <= {0, 1} for entry in rows["objects"])
        assert len(set(rows["image_id"])) == 3
    assert read > 40
