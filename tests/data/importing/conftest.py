"""Folders to import, and what was made of them."""

import json
from pathlib import Path

import pytest
from helpers.scenes import write_scenes

from dino_detr.cli import main


class Imported:
    """What `import-data` made of a folder, and what it said."""

    def __init__(self, form, source, output, capsys, *options):
        main(["import-data", form, str(source), "--output", str(output), *options])
        self.said = capsys.readouterr().out
        problems = output / "problems.txt"
        self.problems = problems.read_text(encoding="utf-8").splitlines() if problems.exists() else []
        self.splits, self.names = {}, {}
        for path in output.glob("annotations/*.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            files = {image["id"]: image["file_name"] for image in content["images"]}
            counts = {name: 0 for name in files.values()}
            for annotation in content["annotations"]:
                counts[files[annotation["image_id"]]] += 1
            self.splits[path.stem.removeprefix("instances_")] = counts
            self.names = {category["id"]: category["name"] for category in content["categories"]}


@pytest.fixture
def load(tmp_path, capsys):
    """A function that imports a folder of the test's, each time into another."""
    outputs = iter(range(100))

    def load(form, source, *options) -> Imported:
        return Imported(form, source, tmp_path / f"coco {next(outputs)}", capsys, *options)

    return load


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_scenes(folder, {"train": 6, "val": 4})
    return folder
