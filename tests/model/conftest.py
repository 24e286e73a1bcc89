"""Fixtures of the tests of the model."""

import pytest
import torch


@pytest.fixture
def two_threads():
    """One thread leaves all products to MKL."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
