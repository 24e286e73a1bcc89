"""Attention among the queries is computed as the configuration says."""

import torch
from helpers.tiny import (
    random_images,
    tiny_config,
    tiny_detector,
)
from transformers import AttentionInterface

from dino_detr import DinoDetrForObjectDetection
from dino_detr.decoder import eager_attention_forward

IMAGES = random_images(2, 3, 64, 96)


def test_attention_is_computed_as_asked(monkeypatch):
    """In the call of the constructor, later, and by a function that the user registered; in the backbone as well."""
    calls = []

    def watched(*args, **kwargs):
        calls.append(1)
        return eager_attention_forward(*args, **kwargs)

    AttentionInterface.register("watched", watched)
    model = tiny_detector()
    assert model.config._attn_implementation == "sdpa"
    expected = model(IMAGES)
    model.set_attn_implementation("watched")
    outputs = model(IMAGES)
    assert len(calls) == 2 + 2  # blocks of the backbone, layers of the decoder
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-4, rtol=1e-4)
    eager = DinoDetrForObjectDetection._from_config(tiny_config(), attn_implementation="eager")
    assert eager.config._attn_implementation == eager.model.backbone.model.config._attn_implementation == "eager"
