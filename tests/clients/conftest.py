"""What the clients are tried on."""

from pathlib import Path

import pytest
from helpers.detecting import save_detector, save_photos


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_detector(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return save_photos(tmp_path_factory.mktemp("photos"))
