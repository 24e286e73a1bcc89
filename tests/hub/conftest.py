"""A run to push."""

import shutil
from pathlib import Path

import pytest

from dino_detr.training import parse_options, prepare, train


@pytest.fixture(scope="session")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(prepare(parse_options([str(recipe), "--output_dir", str(folder)])))
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
