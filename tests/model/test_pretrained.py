"""A model that has run can be copied."""

import copy
import io
import pickle

import pytest
import torch
from helpers.tiny import (
    ALL_BACKBONES,
    random_images,
    tiny_detector,
)

IMAGES = random_images(2, 3, 64, 96)


def shapes(outputs) -> dict:
    """Of what was captured of each layer."""
    return {name: [tuple(t.shape) for t in kept] for name, kept in outputs.items() if isinstance(kept, tuple)}


@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_a_model_that_has_run_can_be_copied_and_pickled(kind):
    model = tiny_detector(kind)
    expected = model(IMAGES, output_hidden_states=True)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    for other in [*copies, model]:
        outputs = other(IMAGES, output_hidden_states=True)
        assert torch.equal(outputs.logits, expected.logits) and shapes(outputs) == shapes(expected)
