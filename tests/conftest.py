"""Where the golden numbers are, and how many threads the tests take."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
CORE = ROOT / "tests" / "golden"  # weights, batches, outputs and losses: enough for a clone to test itself
FULL = ROOT.parent / "shared" / "golden"  # gradients and intermediates too
BCCD = ROOT.parent / "shared" / "data" / "bccd"

# several workers with several threads each would wait for one another
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def core_golden() -> Path:
    return CORE


@pytest.fixture(scope="session")
def full_golden() -> Path:
    if not FULL.is_dir():
        pytest.skip("the full golden set is not here")
    return FULL


@pytest.fixture(scope="session")
def bccd() -> Path:
    if not BCCD.is_dir():
        pytest.skip("BCCD is not here")
    return BCCD
