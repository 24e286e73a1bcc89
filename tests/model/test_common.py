"""What transformers' own common tests check of every model: outputs, attention, padding, copies."""

import copy
import io
import logging
import pickle

import pytest
import torch
from helpers.tiny import ALL_BACKBONES, random_images, random_labels, tiny_config, tiny_detector
from transformers import AttentionInterface

from dino_detr import DinoDetrForObjectDetection, DinoDetrModel
from dino_detr.decoder import eager_attention_forward

IMAGES = random_images(2, 3, 64, 96)
TOKENS = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2  # of the four levels
CAPTURED = (
    "encoder_hidden_states",
    "decoder_hidden_states",
    "encoder_attentions",
    "decoder_attentions",
    "cross_attentions",
)


def shapes(outputs) -> dict:
    return {name: [tuple(tensor.shape) for tensor in outputs[name]] for name in CAPTURED if name in outputs}


# -- what a model can be asked for


@pytest.mark.parametrize("said", ["in the call", "in the configuration"])
@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_hidden_states_and_attentions(kind, said):
    """Of encoder and decoder under the names of in-tree detectors; asking changes no number, also of the next call."""
    model = tiny_detector(kind, encoder_layers=2)
    model.set_attn_implementation("eager")
    plain = model(IMAGES)
    assert not shapes(plain)
    asked = {"output_hidden_states": True, "output_attentions": True}
    if said == "in the configuration":
        for name, value in asked.items():
            setattr(model.config, name, value)
        asked = {}
    expected = {
        "encoder_hidden_states": [(2, TOKENS, 64)] * 3,
        "decoder_hidden_states": [(2, 20, 64)] * 3,
        "encoder_attentions": [(2, TOKENS, 4, 4, 4)] * 2,
        "decoder_attentions": [(2, 4, 20, 20)] * 2,
        "cross_attentions": [(2, 20, 4, 4, 4)] * 2,
    }
    for part in (model, model.model, model):
        outputs = part(IMAGES, **asked)
        assert shapes(outputs) == expected
        for name in ("encoder_attentions", "cross_attentions"):
            assert all(torch.allclose(w.flatten(3).sum(3), torch.ones(())) for w in outputs[name])
        assert all(torch.allclose(w.sum(3), torch.ones(())) for w in outputs.decoder_attentions)
        assert torch.equal(outputs.encoder_hidden_states[-1], outputs.encoder_last_hidden_state)
        assert torch.equal(outputs.decoder_hidden_states[-1], outputs.last_hidden_state)
    assert torch.equal(outputs.logits, plain.logits) and torch.equal(outputs.pred_boxes, plain.pred_boxes)


def test_captured_tensors_are_in_the_graph():
    model = tiny_detector()
    model.set_attn_implementation("eager")
    outputs = model.train()(
        IMAGES, labels=random_labels(3, 1), output_hidden_states=True, output_attentions=True, num_items_in_batch=4
    )
    first = [outputs[name][0] for name in CAPTURED]
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(outputs.loss, first))


def test_only_some_hidden_states_are_kept():
    pytest.importorskip("transformers", minversion="5.24")
    outputs = tiny_detector(decoder_layers=3)(IMAGES, output_hidden_states=[0, 2])
    assert [state is not None for state in outputs.decoder_hidden_states] == [True, False, True, False]


@pytest.mark.parametrize("said", ["in the call", "in the configuration"])
def test_outputs_as_a_tuple(said):
    model = tiny_detector()
    labels = random_labels(3, 1)
    expected = model(IMAGES, labels=labels, output_hidden_states=True)
    model.config.return_dict = said == "in the call"
    asked = {"return_dict": False} if said == "in the call" else {}
    outputs = model(IMAGES, labels=labels, output_hidden_states=True, **asked)
    assert type(outputs) is tuple and type(model.model(IMAGES, **asked)) is tuple
    assert torch.equal(outputs[0], expected.loss) and torch.equal(outputs[2], expected.logits)
    assert len(outputs) == len(expected)


def test_unknown_keywords_are_ignored_as_by_other_models():
    model = tiny_detector()
    assert torch.equal(model(IMAGES, num_items_in_batch=7, anything=None).logits, model(IMAGES).logits)


# -- attention


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


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_denoising_groups_are_hidden_from_one_another(implementation):
    """The matching queries' predictions do not depend on denoising, whichever way attention is computed."""
    model = tiny_detector()
    model.set_attn_implementation(implementation)
    labels = random_labels(3, 2)
    alone = model(IMAGES, labels=labels)
    torch.manual_seed(0)
    beside = model.train()(IMAGES, labels=labels)
    assert beside.denoising_logits is not None
    torch.testing.assert_close(beside.logits, alone.logits, atol=1e-4, rtol=1e-4)


# -- padding that only the labels tell of


def padded_batch(in_the_padding: float) -> tuple[torch.Tensor, torch.Tensor, list[dict]]:
    """Two images of 64x96 and 48x64 pixels; their labels have the processor's `size`."""
    images, mask, labels = IMAGES.clone(), torch.zeros(2, 64, 96, dtype=torch.int64), random_labels(3, 2)
    for index, (height, width) in enumerate([(64, 96), (48, 64)]):
        mask[index, :height, :width] = 1
        labels[index]["size"] = torch.tensor([height, width])
    return images.masked_fill(mask[:, None] == 0, in_the_padding), mask, labels


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("form", [torch.Tensor.int, torch.Tensor.tolist, torch.Tensor.numpy])
def test_padding_without_a_mask_is_padding_with_one(form, training):
    images, mask, labels = padded_batch(0.0)
    told = [label | {"size": form(label["size"])} for label in labels]
    model = tiny_detector().train(training)
    results = []
    for pixel_mask, given in ((mask, labels), (None, told)):
        torch.manual_seed(0)
        outputs = model(images, pixel_mask=pixel_mask, labels=given)
        model.zero_grad()
        outputs.loss.backward()
        results.append([outputs.loss, outputs.pred_boxes, model.model.level_embed.grad.clone()])
    assert all(torch.equal(masked, told) for masked, told in zip(*results))
    unmasked = model(images, labels=random_labels(3, 2))  # which say nothing of sizes
    assert not torch.equal(unmasked.pred_boxes, results[0][1])


def test_a_mask_made_from_labels_is_said_once(caplog):
    from transformers.utils import logging as transformers_logging

    transformers_logging.warning_once.cache_clear()
    images, _, labels = padded_batch(0.0)
    model = tiny_detector()
    with caplog.at_level(logging.WARNING):
        model(images, labels=labels)
        model(images, labels=labels)
    assert caplog.text.count("pixel_mask") == 2  # in one line


def test_labels_make_no_mask_where_they_tell_of_no_padding():
    """Not where all images fill the batch, nor where one was resized after its labels were made."""
    model, labels = tiny_detector(), random_labels(3, 2)
    expected = model(IMAGES, labels=labels).logits
    for sizes in ([(64, 96), (64, 96)], [(64, 96), (128, 40)]):
        told = [label | {"size": torch.tensor(size)} for label, size in zip(labels, sizes)]
        assert torch.equal(model(IMAGES, labels=told).logits, expected)


@pytest.mark.parametrize("size", [(0, 0), (-1, 96), (64,), (64, 96, 3), 64])
def test_a_size_in_labels_that_is_none_is_named(size):
    told = [label | {"size": torch.tensor(size)} for label in random_labels(3, 2)]
    with pytest.raises(ValueError, match=r"labels\[0\]: size is .* \(height, width\)"):
        tiny_detector()(IMAGES, labels=told)


# -- copies


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


def test_both_classes_are_in_the_tables_that_transformers_asks():
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES, MODEL_MAPPING_NAMES

    assert MODEL_MAPPING_NAMES["dino_detr_vit"] == DinoDetrModel.__name__
    assert MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES["dino_detr_vit"] == DinoDetrForObjectDetection.__name__
