"""Rows that are mapped from one file, by all processes."""

import os
import pickle
import sys

import pytest
import torch
from datasets import Dataset
from datasets import config as datasets_config
from helpers.animals import write_json
from PIL import Image as PILImage

from dino_detr.data import load_detection_dataset
from dino_detr.data.samples import TrainingSamples
from dino_detr.data.sources.shared_rows import share_rows


@pytest.fixture
def small_files(tmp_path, monkeypatch):
    """Rows of a megabyte and more are mapped, from files in the folder given."""
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("dino_detr.data.sources.shared_rows.SMALLEST_FILE", 2**20)
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
