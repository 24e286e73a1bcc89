"""What a run starts from: trained detectors made to fit other classes and numbers of queries."""

import pytest
import torch
from helpers.tiny import random_images, tiny_detector
from safetensors.torch import load_file
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from dino_detr import DinoDetrForObjectDetection
from dino_detr.training import load_for_fine_tuning
from dino_detr.training.starting_point import logger


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tiny_detector(id2label={0: "cat", 1: "dog", 2: "emu"}, category_ids=[2, 3, 5]).save_pretrained(folder)
    return folder


def load(checkpoint, **arguments):
    """The detector, the names of the weights that are not the checkpoint's, and what was said."""
    with CaptureLogger(logger) as captured:
        model = load_for_fine_tuning(str(checkpoint), **arguments)
    former = tiny_detector(id2label={0: "cat", 1: "dog", 2: "emu"}).state_dict()
    weights = model.state_dict()
    assert set(weights) == set(former)
    changed = {name for name, tensor in weights.items() if not torch.equal(tensor, former[name])}
    return model, changed, captured.out


@pytest.mark.parametrize("names", [["ant", "bee"], ["ant", "bee", "cow"], ["dog", "cat", "emu"]])
def test_other_classes_renew_their_heads_and_nothing_else(checkpoint, names):
    """Promise 2: by name, not by number: heads of as many other classes, or the same in another order, do not fit."""
    torch.manual_seed(0)
    model, changed, said = load(checkpoint, id2label=dict(enumerate(names)), category_ids=list(range(len(names))))
    heads = {f"model.class_embed.{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")}
    assert changed == heads | {"model.denoising_class_embed.weight"}
    assert all(name in said for name in changed)
    assert model.config.id2label == dict(enumerate(names)) and model.config.label2id[names[1]] == 1
    assert model.config.category_ids == list(range(len(names)))
    bias = model.model.class_embed[0].bias
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))
    with torch.no_grad():
        assert model.eval()(random_images(1, 3, 64, 64)).logits.shape == (1, 20, len(names))


def test_what_was_changed_is_saved_as_any_other(checkpoint, tmp_path):
    """Files have the names that every version of transformers reads, not those of the running one."""
    model, _, _ = load(checkpoint, id2label={0: "ant"}, num_queries=30)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == set(load_file(checkpoint / "model.safetensors"))
    again = DinoDetrForObjectDetection.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_the_same_classes_keep_everything(checkpoint, tmp_path):
    names = {0: "cat", 1: "dog", 2: "emu"}
    model, changed, said = load(checkpoint, id2label=names, category_ids=[7, 8, 9])
    assert not changed and not said
    assert model.config.category_ids == [7, 8, 9]
    # as converted checkpoints have them: classes without names
    tiny_detector(id2label={index: f"LABEL_{index}" for index in range(3)}).save_pretrained(tmp_path)
    model, changed, said = load(tmp_path, id2label=names)
    assert not changed and not said
    assert model.config.id2label == names


def test_queries_are_kept_and_added(checkpoint):
    """Promise 23."""
    trained = tiny_detector().model.query_embed.weight
    more, changed, said = load(checkpoint, num_queries=30)
    assert changed == {"model.query_embed.weight"} and "20 are kept, 30 run" in said
    assert torch.equal(more.model.query_embed.weight[:20], trained)
    new = more.model.query_embed.weight[20:]
    assert new.shape == (10, 64) and new.unique(dim=0).shape == new.shape and new.abs().max() < 1
    with torch.no_grad():
        assert more.eval()(random_images(1, 3, 96, 96)).logits.shape == (1, 30, 3)
    fewer, changed, said = load(checkpoint, num_queries=5)
    assert changed == {"model.query_embed.weight"} and "5 are kept" in said
    assert torch.equal(fewer.model.query_embed.weight, trained[:5])


def test_weights_that_do_not_fit_are_an_error(checkpoint):
    with pytest.raises(ValueError, match=r"no weights for what is asked of it \(encoder_ffn_dim\): .*encoder"):
        load_for_fine_tuning(str(checkpoint), encoder_ffn_dim=128)
    with pytest.raises(ValueError, match=r"no weights for what is asked of it \(decoder_layers\)"):
        load_for_fine_tuning(str(checkpoint), decoder_layers=3)


def test_what_becomes_of_weights_is_said_once(checkpoint):
    """In our words, not also as transformers' table."""
    with CaptureLogger(logging.get_logger("transformers")) as captured:
        _, _, said = load(checkpoint, id2label={0: "ant", 1: "bee"}, num_queries=30)
    assert "start anew" in said and "20 are kept, 30 run" in said
    assert "LOAD REPORT" not in captured.out and "sharded" not in captured.out
