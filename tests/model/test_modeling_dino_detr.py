"""The detector: sizes, precision, memory, loading, and what it can be asked for."""

import pytest
import torch
from helpers.tiny import (
    ALL_BACKBONES,
    draw_noise,
    random_images,
    random_labels,
    tiny_detector,
)
from scipy.optimize import linear_sum_assignment

from dino_detr import DinoDetrForObjectDetection, DinoDetrModel
from dino_detr import decoder as decoder_module
from dino_detr import deformable_attention as attention_module
from dino_detr import loss as loss_module

IMAGES = random_images(2, 3, 64, 96)


def test_an_image_gives_the_same_alone_or_beside_others_of_its_size():
    model, images = tiny_detector(), random_images(2, 3, 64, 96)
    with torch.no_grad():
        together, alone = model(images), [model(image[None]) for image in images]
    for index in range(2):
        for name in ("logits", "pred_boxes"):
            mine, other = getattr(together, name)[index], getattr(alone[index], name)[0]
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    assert (together.logits[0] - together.logits[1]).abs().max() > 1e-2


@pytest.mark.parametrize("d_model", [32, 64])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (16, 200)])
def test_any_size_is_detected_in_and_trained_on(size, d_model):
    """The narrowest model and a single small image included."""
    model, images = tiny_detector(d_model=d_model), random_images(1, 3, *size)
    with torch.no_grad():
        outputs = model(images)
    assert torch.isfinite(outputs.logits).all() and ((outputs.pred_boxes >= 0) & (outputs.pred_boxes <= 1)).all()
    loss = model.train()(images, labels=random_labels(2)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_more_queries_than_tokens_gives_one_query_a_token():
    """16x16 pixels are padded to 2x2 patches, so to 4x4, 2x2, 1x1 and 1x1 tokens."""
    model, images = tiny_detector(num_queries=500), random_images(2, 3, 16, 16)
    outputs = model.train()(images, labels=random_labels(3, 1))
    assert outputs.logits.shape == (2, 22, 3) and outputs.pred_boxes.shape == (2, 22, 4)
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)


@pytest.fixture
def seen_dtypes(monkeypatch):
    """Where boxes are computed with -> the dtypes seen there."""
    seen = {}

    def spy(module, name, positions):
        real = getattr(module, name)

        def spied(*args, **kwargs):
            seen.setdefault(name, set()).update(args[position].dtype for position in positions)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, spied)

    spy(attention_module, "deformable_sampling", [2, 3])  # locations, weights
    spy(decoder_module, "inverse_sigmoid", [0])  # boxes
    spy(loss_module, "assign", [0, 1])  # logits, boxes
    spy(loss_module, "detection_losses", [0, 1])
    return seen


@pytest.mark.parametrize("how", ["autocast bfloat16", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["dinov2", "timm_backbone"])
def test_half_precision_keeps_boxes_and_losses_in_float32(kind, how, seen_dtypes, tmp_path):
    """
    Boxes on average within 1 % of the image and the loss within 5 % of float32's (bfloat16 has 8 bits); backward works.

    All queries start with one content, so that a changed order of the selected tokens changes only the order.
    """
    model = tiny_detector(kind, num_queries=200, freeze_backbone=False, num_denoising=0)
    dtype = getattr(torch, how.split()[-1])
    with torch.no_grad():
        model.model.query_embed.weight[:] = model.model.query_embed.weight[:1].clone()
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))  # the comparison is of the arithmetic, not of rounded weights
    images, labels = random_images(1, 3, 64, 64), random_labels(3)
    expected = model(images, labels=labels)
    seen_dtypes.clear()
    if how.startswith("autocast"):
        with torch.autocast("cpu", dtype=dtype):
            outputs = model(images, labels=labels)
    else:
        model.save_pretrained(tmp_path)
        model = DinoDetrForObjectDetection.from_pretrained(tmp_path, dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        outputs = model(images, labels=labels)
    assert set(seen_dtypes) == {"deformable_sampling", "inverse_sigmoid", "assign", "detection_losses"}
    assert all(dtypes == {torch.float32} for dtypes in seen_dtypes.values()), seen_dtypes
    assert {outputs.loss.dtype, outputs.logits.dtype, outputs.pred_boxes.dtype} == {torch.float32}
    assert all(term.dtype == torch.float32 for term in outputs.loss_dict.values())

    def sorted_out(boxes):
        distance = torch.cdist(boxes, expected.pred_boxes[0], p=1).detach()
        return boxes[linear_sum_assignment(distance.T)[1]]

    assert (sorted_out(outputs.pred_boxes[0]) - expected.pred_boxes[0]).abs().mean() < 0.01
    torch.testing.assert_close(outputs.loss, expected.loss, atol=0, rtol=0.05)
    outputs.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


BLOCKS = {"swin": 5, "resnet": 0}  # transformers recomputes none of ResNet's


@pytest.mark.filterwarnings("error::UserWarning")  # torch's, if a frozen backbone were checkpointed
@pytest.mark.parametrize("kind", ALL_BACKBONES)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "unfrozen"])
def test_gradient_checkpointing_saves_memory_and_changes_no_number(kind, frozen):
    images, labels = random_images(2, 3, 128, 128), random_labels(3, 1)
    results = []
    for checkpointing in (False, True):
        model = tiny_detector(kind, freeze_backbone=frozen, encoder_layers=3).train()
        if checkpointing:
            # (transformers renamed it)
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        layers = count_calls(model, "ffn.fc1")
        blocks = count_calls(model.model.backbone, "layernorm_before" if kind == "swin" else "norm1")
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model(images, labels=labels, denoising_queries=draw_noise(labels))
        outputs.loss.backward()
        # 3 + 2 layers and all blocks are run once more in backward, but for those without a backward
        assert len(layers) == (10 if checkpointing else 5)
        if checkpointing and not frozen:  # (of Swin some twice more, whose stages are recomputed as well)
            assert len(blocks) >= 2 * BLOCKS.get(kind, 2)
        else:
            assert len(blocks) == BLOCKS.get(kind, 2)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((outputs.loss, gradients, sum(kept.values())))
    (loss, gradients, plain_bytes), (other_loss, other_gradients, bytes_kept) = results
    assert bytes_kept < 0.7 * plain_bytes
    assert torch.equal(loss, other_loss) and set(gradients) == set(other_gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, atol=1e-6, rtol=1e-5)


def count_calls(module, suffix) -> list:
    """A list that grows with each call of the submodules whose names end so."""
    calls = []
    for name, part in module.named_modules():
        if name.endswith(suffix):
            part.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "unfrozen"])
@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_every_weight_arrives_whatever_class_saves_and_loads(kind, frozen, tmp_path):
    """Detector and base model, each from each, with no missing, unexpected or mismatched key."""
    detector = tiny_detector(kind, freeze_backbone=frozen)
    detector.save_pretrained(tmp_path / "detector")
    detector.model.save_pretrained(tmp_path / "base")
    images = random_images(1, 3, 70, 50)
    with torch.no_grad():
        expected = detector(images)
    for folder in ("detector", "base"):
        for loader in (DinoDetrForObjectDetection, DinoDetrModel):
            model, loading = loader.from_pretrained(tmp_path / folder, output_loading_info=True)
            for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
                assert not loading[key], (folder, loader.__name__, key)
            with torch.no_grad():
                outputs = model(images)
            assert torch.equal(outputs.last_hidden_state, expected.last_hidden_state)
            if loader is DinoDetrForObjectDetection:
                assert torch.equal(outputs.logits, expected.logits)
                assert torch.equal(outputs.pred_boxes, expected.pred_boxes)


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


def test_both_classes_are_in_the_tables_that_transformers_asks():
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES, MODEL_MAPPING_NAMES

    assert MODEL_MAPPING_NAMES["dino_detr_vit"] == DinoDetrModel.__name__
    assert MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES["dino_detr_vit"] == DinoDetrForObjectDetection.__name__
