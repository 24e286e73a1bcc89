"""Where the golden numbers are, how many threads the tests take, and something to train on."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from helpers.fake_hub import TOKEN, FakeHub
from helpers.launching import ENVIRONMENT, RECIPE
from helpers.scenes import write_scenes
from huggingface_hub import constants

from dino_detr.training import uploads

ROOT = Path(__file__).parent.parent
CORE = ROOT / "tests" / "golden"  # weights, batches, outputs and losses: enough for a clone to test itself
FULL = ROOT.parent / "shared" / "golden"  # gradients and intermediates too
ZOO = ROOT.parent / "shared" / "zoo"  # the same of other families, and the names of published tensors
BCCD = ROOT.parent / "shared" / "data" / "bccd"

# several workers with several threads each would wait for one another
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory) -> Path:
    """What is remembered of image files goes here, also of the processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = ENVIRONMENT["XDG_CACHE_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def core_golden() -> Path:
    return CORE


@pytest.fixture(scope="session")
def full_golden() -> Path:
    if not FULL.is_dir():
        pytest.skip("the full golden set is not here")
    return FULL


@pytest.fixture(scope="session")
def zoo() -> Path:
    if not ZOO.is_dir():
        pytest.skip("the golden sets of other families are not here")
    return ZOO


@pytest.fixture(scope="session")
def bccd() -> Path:
    if not BCCD.is_dir():
        pytest.skip("BCCD is not here")
    return BCCD


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A COCO folder of digit scenes with category ids that have gaps: 9 images to train on, 7 to evaluate on."""
    folder = tmp_path_factory.mktemp("coco")
    write_scenes(folder, {"train": 9, "val": 7})
    return folder


@pytest.fixture(scope="session")
def recipe(data) -> Path:
    path = data / "tiny.yaml"
    path.write_text(yaml.safe_dump({"dataset": str(data), **RECIPE}))
    return path


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    """A Hub on this machine, with a token that may write there, and nothing of it downloaded yet."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("downloaded")))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(uploads, "RETRY_AFTER", ())
    with FakeHub() as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        yield hub
