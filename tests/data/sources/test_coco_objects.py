"""Annotations read piece by piece at once are those read one by one."""

import json
import random

import pytest
from helpers.coco_files import coco, write

from dino_detr.data import load_detection_dataset
from dino_detr.data.findings import Findings
from dino_detr.data.sources import json_lists
from dino_detr.data.sources.coco_objects import CocoObjects

CHANGES = [
    {"id": 3}, {"id": "7"}, {"id": None}, {"id": 2**62}, {"id": 1.0}, {"image_id": 99}, {"image_id": "1"},
    {"category_id": 99}, {"category_id": 2.0}, {"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, -3, 4]}, {"bbox": [1, 2, 3]},
    {"bbox": ["1", 2, 3, 4]}, {"bbox": [1e13, 2, 3, 4]}, {"bbox": [90, 60, 30, 30]}, {"area": -1}, {"area": None},
    {"area": "5"}, {"iscrowd": 2}, {"iscrowd": True}, {"iscrowd": None}, {"iscrowd": 1}, {"more": {"a": [1, {}]}},
]  # fmt: skip


def rows_and_findings(file, split="train"):
    findings = Findings()
    rows = load_detection_dataset(str(file), split, findings)
    return rows.with_format("arrow")[:].to_pylist(), [(f.kind, f.count, f.examples) for f in findings.sorted()]


@pytest.mark.parametrize("split", ["train", "train[1:]"])
@pytest.mark.parametrize("seed", range(8))
def test_at_once_as_one_by_one(pictures, monkeypatch, seed, split):
    rng, content = random.Random(seed), coco()
    content["annotations"] = [dict(rng.choice(content["annotations"]), id=number) for number in range(60)]
    for entry in rng.sample(content["annotations"], 4 * seed):
        entry |= rng.choice(CHANGES)
    monkeypatch.setattr(json_lists, "PIECE", 800)
    file = write(pictures, content)
    added, add_plain = [], CocoObjects.add_plain

    def count(*arguments):
        added.append(add_plain(*arguments))
        return added[-1]

    monkeypatch.setattr(CocoObjects, "add_plain", count)
    pieces = rows_and_findings(file, split)
    assert len(added) > 5 and (seed > 2 or any(added))
    monkeypatch.setattr(CocoObjects, "add_plain", lambda *_: None)
    assert rows_and_findings(file, split) == pieces
    file.write_text(json.dumps(content), encoding="utf-16")  # which is read as a whole
    assert rows_and_findings(file, split) == pieces
