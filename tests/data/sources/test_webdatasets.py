"""Shards, parquet or tar, hold what the COCO folder holds that they were made of."""

import numpy as np
import pytest
from datasets import config as datasets_config
from helpers.coco_files import coco, write
from helpers.shards import write_parquet, write_tars

from dino_detr.data import class_names, list_splits, load_detection_dataset
from dino_detr.data.check import check_split


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("write_shards", [write_parquet, write_tars])
def test_shards_are_rows(pictures, tmp_path, write_shards):
    rows = load_detection_dataset(str(write(pictures, coco())), "train")
    write_shards(rows, tmp_path / "shards", "train", 3)
    write_shards(rows.select([2]), tmp_path / "shards", "val", 1)
    shards = load_detection_dataset(str(tmp_path / "shards"), "train")
    assert {"train", "validation"} == set(list_splits(str(tmp_path / "shards")))
    assert class_names(shards) == class_names(rows) and len(shards) == 3
    for one, other in zip(shards, rows):
        assert (np.asarray(one.pop("image")) == np.asarray(other.pop("image"))).all()
        assert one == other
    assert shards.select_columns(["image"]).cache_files  # mapped, not in memory
    assert load_detection_dataset(str(tmp_path / "shards"), "val")[0]["image_id"] == 3
    assert not check_split(str(tmp_path / "shards"), "train").defects
