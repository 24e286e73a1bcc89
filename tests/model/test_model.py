"""What the detector promises: sizes, denoising, precision, initialisation, loading, configuration, matching, errors."""

import copy
import json
import logging
import math

import numpy as np
import pytest
import torch
from helpers.tiny import (
    ALL_BACKBONES,
    TRANSFORMERS_BACKBONES,
    random_images,
    random_labels,
    tiny_backbone_config,
    tiny_config,
    tiny_detector,
)
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou, nms, sigmoid_focal_loss

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection, DinoDetrImageProcessor, DinoDetrModel
from dino_detr import decoder as decoder_module
from dino_detr import deformable_attention as attention_module
from dino_detr import loss as loss_module
from dino_detr.denoising import DenoisingQueries, draw_denoising_queries
from dino_detr.matching import assign
from dino_detr.modeling_dino_detr import DinoDetrObjectDetectionOutput
from dino_detr.targets import Targets

REFUSED = (ValueError, TypeError, StrictDataclassError)
TERMS = ("loss_class", "loss_bbox", "loss_giou")


def draw(labels, num_denoising=10, label_noise_ratio=0.5, box_noise_scale=1.0, seed=0):
    torch.manual_seed(seed)
    targets = Targets.from_labels(labels, len(labels), torch.device("cpu"))
    settings = {"label_noise_ratio": label_noise_ratio, "box_noise_scale": box_noise_scale}
    return draw_denoising_queries(targets, tiny_config(num_denoising=num_denoising, **settings))


# -- batches and sizes


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


# -- denoising


def test_denoising_settings_never_change_eval_outputs():
    reference = tiny_detector(num_denoising=0)
    images, labels = random_images(2, 3, 64, 64), random_labels(3, 1)
    with torch.no_grad():
        expected = reference(images)
        for settings in (
            {"num_denoising": 0},
            {"num_denoising": 100},
            {"num_denoising": 7, "label_noise_ratio": 1.0, "box_noise_scale": 2.0},
        ):
            model = tiny_detector(**settings)
            model.load_state_dict(reference.state_dict())
            for outputs in (model(images), model(images, labels=labels)):
                assert torch.equal(outputs.logits, expected.logits)
                assert torch.equal(outputs.pred_boxes, expected.pred_boxes)
                assert outputs.denoising_logits is None


def test_denoising_never_changes_the_other_losses():
    """Nor what the matching queries predict, while it has losses of its own."""
    images, labels = random_images(2, 3, 64, 64), random_labels(4, 2)
    model, off = tiny_detector().train(), tiny_detector(num_denoising=0).train()
    without = off(images, labels=labels)
    for seed in range(2):
        replayed = model(images, labels=labels, denoising_queries=draw(labels, seed=seed))
        torch.testing.assert_close(replayed.auxiliary_logits, without.auxiliary_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(replayed.auxiliary_boxes, without.auxiliary_boxes, atol=1e-5, rtol=1e-4)
        for name, term in without.loss_dict.items():
            torch.testing.assert_close(replayed.loss_dict[name], term, atol=1e-5, rtol=1e-4)
        denoising = {name: term for name, term in replayed.loss_dict.items() if "_dn" in name}
        assert set(without.loss_dict) == set(replayed.loss_dict) - set(denoising)
        assert all(term > 0 for term in denoising.values())
        weights = {"loss_class": 1, "loss_bbox": 5, "loss_giou": 2}
        total = sum(weights[name[:10].rstrip("_")] * term for name, term in replayed.loss_dict.items())
        torch.testing.assert_close(replayed.loss, total)


def test_replayed_noise_gives_the_same_loss_and_new_noise_another():
    model, images, labels = tiny_detector().train(), random_images(2, 3, 64, 64), random_labels(4, 2)
    noise = draw(labels)
    first, second = (model(images, labels=labels, denoising_queries=noise).loss for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(1)
    third, fourth = (model(images, labels=labels).loss for _ in range(2))
    assert not torch.equal(third, fourth)


def test_a_thousand_boxes_stay_within_the_denoising_budget():
    """A random subset is denoised, against the boxes it was made from, normalised by how many it is."""
    budget, images, labels = 10, random_images(2, 3, 64, 64), random_labels(1000, 3)
    subsets = [draw(labels, budget, seed=seed).box_index[0].sort().values for seed in range(2)]
    assert not torch.equal(*subsets)
    assert all(len(subset.unique()) == budget and subset.min() >= 0 and subset.max() < 1000 for subset in subsets)

    noise = draw(labels, budget, label_noise_ratio=0.0, box_noise_scale=0.0)
    assert noise.labels.shape == (2, 2 * budget) and noise.num_groups == 1
    chosen = noise.box_index[0]
    assert torch.equal(noise.labels[0], labels[0]["class_labels"][chosen].repeat(2))
    torch.testing.assert_close(noise.boxes[0], labels[0]["boxes"][chosen].repeat(2, 1))
    assert (noise.labels[1] >= 0).sum() == 2 * 3

    model = tiny_detector(num_denoising=budget).train()
    outputs = model(images, labels=labels)
    assert outputs.denoising_logits.shape[2] <= 2 * budget
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss) and model.model.level_embed.grad.isfinite().all()

    outputs = model(images, labels=labels, denoising_queries=noise)
    restored = outputs.denoising_boxes[-1]
    distance = (restored[0, :budget] - labels[0]["boxes"][chosen]).abs().sum()
    owners = noise.box_index[1]
    for slot in range(budget):
        if noise.labels[1, slot] >= 0:
            distance = distance + (restored[1, slot] - labels[1]["boxes"][owners[slot]]).abs().sum()
    torch.testing.assert_close(outputs.loss_dict["loss_bbox_dn"], distance / (budget + 3))


def test_the_denoising_budget_holds_for_any_number_of_boxes():
    for most in (1, 3, 7, 10, 11, 200):
        noise = draw(random_labels(most, 1))
        assert noise.labels.shape[1] == 2 * noise.num_groups * min(most, 10) <= 20
    assert draw(random_labels(0, 0)) is None and draw(random_labels(3), num_denoising=0) is None


@pytest.mark.parametrize("num_denoising", [10, 0])
def test_a_batch_without_boxes_trains_on_the_same_terms(num_denoising):
    model = tiny_detector(num_denoising=num_denoising).train()
    images = random_images(2, 3, 64, 64)
    full, empty = (model(images, labels=random_labels(*counts)) for counts in ([2, 1], [0, 0]))
    assert set(full.loss_dict) == set(empty.loss_dict)
    assert torch.isfinite(empty.loss) and empty.loss_dict["loss_class"] > 0 and empty.loss_dict["loss_bbox"] == 0
    before = model.model.class_embed[0].bias.detach().clone()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).zero_grad()
    empty.loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    after = model.model.class_embed[0].bias.detach()
    assert (after < before).all()  # nothing is there, and it learns so
    with torch.no_grad():
        assert torch.isfinite(model(images, labels=random_labels(0, 0)).loss)


def test_loss_terms_have_the_references_names():
    outputs = tiny_detector(decoder_layers=3).train()(random_images(1, 3, 64, 64), labels=random_labels(2))
    suffixes = ["", "_0", "_1", "_enc", "_dn", "_dn_0", "_dn_1"]
    assert set(outputs.loss_dict) == {term + suffix for term in TERMS for suffix in suffixes}


# -- matching and losses, written plainly


def plain_matching(logits, boxes, label, config):
    """The assignment of one layer of one image: (queries, targets), the cost as Deformable DETR's text has it."""
    cost = np.zeros((len(logits), len(label["boxes"])))
    probability = logits.double().sigmoid().tolist()
    overlap = generalized_box_iou(*(box_convert(b.double(), "cxcywh", "xyxy") for b in (boxes, label["boxes"])))
    for query in range(cost.shape[0]):
        for target in range(cost.shape[1]):
            p = probability[query][int(label["class_labels"][target])]
            positive = -config.focal_alpha * (1 - p) ** config.focal_gamma * math.log(p + 1e-8)
            negative = -(1 - config.focal_alpha) * p**config.focal_gamma * math.log(1 - p + 1e-8)
            distance = float((boxes[query] - label["boxes"][target]).abs().sum())
            cost[query, target] = (
                config.class_cost * (positive - negative)
                + config.bbox_cost * distance
                - config.giou_cost * float(overlap[query, target])
            )
    return linear_sum_assignment(cost)


def test_matching_and_losses_are_those_of_each_layer_and_image_alone():
    """Images without boxes and with more boxes than queries included."""
    images, labels = random_images(3, 3, 64, 64), random_labels(4, 0, 25)
    model = tiny_detector(class_cost=1.5, bbox_cost=4, giou_cost=3, focal_alpha=0.4, focal_gamma=1.5)
    outputs = model(images, labels=labels)
    targets = Targets.from_labels(labels, 3, torch.device("cpu"))
    assigned = assign(outputs.auxiliary_logits, outputs.auxiliary_boxes, targets, model.config)

    for layer, suffix in enumerate(["_0", "", "_enc"]):
        losses, offset = dict.fromkeys(TERMS, 0.0), 0
        for image, label in enumerate(labels):
            logits, boxes = outputs.auxiliary_logits[layer, image], outputs.auxiliary_boxes[layer, image]
            queries, matched = plain_matching(logits.detach(), boxes.detach(), label, model.config)
            here = assigned.image == image
            pairs = zip(assigned.query[layer, here].tolist(), (assigned.target[layer, here] - offset).tolist())
            assert set(pairs) == set(zip(queries.tolist(), matched.tolist()))
            offset += len(label["boxes"])

            expected = torch.zeros_like(logits)
            expected[queries, label["class_labels"][matched]] = 1
            losses["loss_class"] += sigmoid_focal_loss(logits, expected, alpha=0.4, gamma=1.5, reduction="sum")
            losses["loss_bbox"] += (boxes[queries] - label["boxes"][matched]).abs().sum()
            overlap = generalized_box_iou(
                *(box_convert(b, "cxcywh", "xyxy") for b in (boxes[queries], label["boxes"][matched]))
            )
            losses["loss_giou"] += (1 - overlap.diagonal()).sum()
        for term, value in losses.items():
            torch.testing.assert_close(outputs.loss_dict[term + suffix], value / 29, atol=1e-4, rtol=1e-4)


# -- precision and memory


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
        layers, blocks = count_calls(model, "ffn.fc1"), count_calls(model.model.backbone, "norm1")
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model(images, labels=labels, denoising_queries=draw(labels))
        outputs.loss.backward()
        # 3 + 2 layers and 2 blocks are run once more in backward, but for those without a backward
        assert len(layers) == (10 if checkpointing else 5)
        assert len(blocks) == (4 if checkpointing and not frozen else 2)
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


# -- initialisation and loading


@pytest.mark.parametrize("kind", TRANSFORMERS_BACKBONES)
def test_initialisation_fills_every_parameter_and_buffer(kind):
    """As it must where a model is built on the meta device."""
    torch.manual_seed(0)
    model = DinoDetrForObjectDetection(tiny_config(kind, freeze_backbone=False))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else -(2**30))
            tensor._is_hf_initialized = False
        for module in model.modules():
            module._is_hf_initialized = False
        model.init_weights()
    left = [name for name, tensor in tensors.items() if tensor.isnan().any() or (tensor == -(2**30)).any()]
    assert not left
    check_initial_facts(model)


def test_a_checkpoint_that_lacks_weights_starts_them_as_a_new_model_does(tmp_path):
    """Through transformers' meta device; what is there is loaded."""
    full = tiny_detector()
    kept = {name: value for name, value in full.state_dict().items() if name.startswith("model.backbone.")}
    full.save_pretrained(tmp_path, state_dict=dict(kept))
    model, loading = DinoDetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert len(loading["missing_keys"]) == len(full.state_dict()) - len(kept) and not loading["unexpected_keys"]
    check_initial_facts(model)
    for name, value in kept.items():
        assert torch.equal(model.state_dict()[name], value), name


def check_initial_facts(model: DinoDetrForObjectDetection) -> None:
    detector = model.model
    for classes, boxes in zip(detector.class_embed, detector.bbox_embed):
        torch.testing.assert_close(classes.bias, torch.full_like(classes.bias, -math.log(99)))  # -4.595
        assert not boxes.layers[-1].weight.any() and not boxes.layers[-1].bias.any()
    for heads in (detector.class_embed, detector.bbox_embed):
        assert len(heads) == model.config.decoder_layers + 1
        first = [*heads[0].parameters()]
        assert first[0].std() > 0.01
        for head in heads[1:]:
            for parameter, other in zip(head.parameters(), first):
                assert torch.equal(parameter, other) and parameter.data_ptr() != other.data_ptr()
    attention = detector.encoder.layers[0].self_attn
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
    # Deformable DETR's start: head k looks in direction k of the circle, on its square; point i is i + 1 cells away
    offsets = attention.sampling_offsets.bias.view(attention.num_heads, attention.num_levels, attention.num_points, 2)
    for head in range(attention.num_heads):
        angle = 2 * math.pi * head / attention.num_heads
        direction = torch.tensor([math.cos(angle), math.sin(angle)])
        direction /= direction.abs().max()
        for point in range(attention.num_points):
            expected = (direction * (point + 1)).expand(attention.num_levels, 2)
            torch.testing.assert_close(offsets[head, :, point], expected, atol=1e-5, rtol=1e-5)
    for xavier in (attention.value_proj, detector.encoder.layers[0].ffn.fc1, detector.decoder.layers[0].ffn.fc2):
        bound = math.sqrt(6 / sum(xavier.weight.shape))
        assert 0.9 * bound < xavier.weight.abs().max() <= bound
    assert 0.8 < detector.level_embed.std() < 1.2


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


# -- configuration


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_querys": 100},
        {"dropout": 0.1},
        {"num_queries": "many"},
        {"d_model": 64.5},
        {"freeze_backbone": "no"},
        {"pyramid_scale_factors": [3.0, 1.0]},
        {"num_feature_levels": 2},
        {"d_model": 80},
        {"encoder_attention_heads": 5},
        {"id2label": {1: "cat", 2: "dog"}},
        {"category_ids": [7]},
        {"category_ids": ["cat", "dog", "emu"]},
    ],
    ids=lambda arguments: str(arguments),
)
def test_a_wrong_argument_is_refused_by_name(arguments):
    with pytest.raises(REFUSED, match=next(iter(arguments))):
        tiny_config(**arguments)


def test_unknown_keys_of_a_saved_configuration_are_only_warned_of(tmp_path, caplog):
    config = tiny_config("dinov3_vit", category_ids=[1, 5, 90])
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"from_the_future": 1}))
    with caplog.at_level(logging.WARNING):
        loaded = DinoDetrConfig.from_pretrained(tmp_path)
    assert "from_the_future" in caplog.text and not hasattr(loaded, "from_the_future")
    assert loaded.to_dict() == config.to_dict() and loaded.category_ids == [1, 5, 90]
    assert type(loaded.backbone_config) is type(config.backbone_config)
    with pytest.raises(REFUSED, match="num_queries"):  # an argument beside the file is checked
        DinoDetrConfig.from_dict(written, num_queries="many")
    with pytest.raises(REFUSED, match="num_querys"):
        DinoDetrConfig.from_pretrained(tmp_path, num_querys=3)


FLIPPED = {
    "backbone_config": tiny_backbone_config(num_hidden_layers=1),
    "freeze_backbone": False,
    "position_embedding_antialias": False,
    "d_model": 96,
    "pyramid_channels": 48,
    "pyramid_scale_factors": [4.0, 1.0, 0.5],
    "num_feature_levels": 5,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_n_points": 2,
    "decoder_n_points": 2,
    "num_queries": 19,
    "num_denoising": 3,
    "label_noise_ratio": 1.0,
    "box_noise_scale": 0.4,
    "class_cost": 50.0,
    "bbox_cost": 500.0,
    "giou_cost": 200.0,
    "class_loss_coefficient": 3.0,
    "bbox_loss_coefficient": 3.0,
    "giou_loss_coefficient": 3.0,
    "focal_alpha": 0.5,
    "focal_gamma": 1.0,
    "category_ids": [3, 7, 9],
}
DRAWN_ON = {"images": random_images(2, 3, 32, 48), "labels": random_labels(4, 2)}


def fingerprint(**arguments):
    """Everything a setting could change: what is trained, what is detected, what it costs, what is written."""
    model = tiny_detector(**arguments)
    with torch.no_grad():
        outputs = model(DRAWN_ON["images"])
    torch.manual_seed(0)
    loss = model.train()(DRAWN_ON["images"], labels=DRAWN_ON["labels"]).loss
    return {
        "weights": [(name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()],
        "outputs": (outputs.logits.flatten().tolist(), outputs.pred_boxes.flatten().tolist()),
        "loss": loss.item(),
    }


@pytest.fixture(scope="module")
def unflipped():
    return fingerprint()


def test_every_option_is_flipped_here():
    assert set(FLIPPED) == set(DinoDetrConfig.__annotations__) - {"model_type", "sub_configs", "attribute_map"}


@pytest.mark.parametrize("option", FLIPPED)
def test_flipping_an_option_changes_something(option, unflipped):
    if option == "category_ids":  # for those who write results
        assert tiny_config(category_ids=FLIPPED[option]).to_dict()[option] == FLIPPED[option]
    else:
        assert fingerprint(**{option: FLIPPED[option]}) != unflipped


# -- bad input


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda batch: batch["labels"][1]["class_labels"].fill_(3), [r"labels\[1\]", "class_labels", "3 classes"]),
        (lambda batch: batch["labels"][1]["class_labels"].fill_(-1), [r"labels\[1\]", "class_labels", "-1"]),
        (lambda batch: batch["labels"][1]["boxes"].mul_(64), [r"labels\[1\]", "boxes", r"0\.\.1"]),
        (lambda batch: batch["labels"][1]["boxes"].fill_(float("nan")), [r"labels\[1\]", "boxes", "nan"]),
        (lambda batch: batch["labels"].pop(), ["labels", "1 images", "2"]),
        (lambda batch: batch["labels"][1].pop("boxes"), [r"labels\[1\]", "boxes"]),
        (lambda batch: batch["labels"][1].pop("class_labels"), [r"labels\[1\]", "class_labels"]),
        (
            lambda batch: batch["labels"][1].update(boxes=batch["labels"][1]["boxes"][:1]),
            [r"labels\[1\]", "boxes", "class_labels"],
        ),
        (lambda batch: batch.update(pixel_mask=torch.ones(2, 64, 32)), ["pixel_mask", "64, 64", "64, 32"]),
        (lambda batch: batch.update(pixel_mask=torch.ones(64, 64)), ["pixel_mask", "2, 64, 64"]),
    ],
    ids=[
        "label beyond num_labels",
        "negative label",
        "boxes in pixels",
        "boxes not a number",
        "labels of one image",
        "no boxes",
        "no class_labels",
        "fewer boxes than labels",
        "mask of another size",
        "mask without batch",
    ],
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_bad_input_is_refused_by_name(spoil, named, training):
    batch = {"pixel_values": random_images(2, 3, 64, 64), "labels": random_labels(2, 2)}
    spoil(batch)
    with pytest.raises(ValueError) as error:
        tiny_detector().train(training)(**batch)
    for part in named:
        error.match(part)


def test_boxes_on_the_border_are_not_refused():
    labels = [{"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 1.00001, 1.0]])}]
    assert torch.isfinite(tiny_detector().train()(random_images(1, 3, 64, 64), labels=labels).loss)


def test_misshapen_denoising_queries_are_refused():
    with pytest.raises(ValueError, match="num_groups"):
        DenoisingQueries(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, 4), num_groups=2)
    with pytest.raises(ValueError, match="boxes"):
        DenoisingQueries(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 7, 4), num_groups=2)


# -- the processor


@pytest.fixture(scope="module")
def processor():
    return DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})


def predictions(boxes, scores):
    """One image; `scores` `[Q, K]`."""
    logits = torch.logit(torch.tensor(scores, dtype=torch.float32))[None]
    return DinoDetrObjectDetectionOutput(logits=logits, pred_boxes=torch.tensor(boxes, dtype=torch.float32)[None])


def test_detections_are_the_best_clipped_and_never_empty(processor):
    boxes = [
        [0.5, 0.5, 0.5, 0.5],
        [0.0, 0.0, 0.5, 0.5],  # half outside
        [0.5, 0.5, 0.0, 0.5],  # empty
        [-0.5, 0.5, 0.5, 0.5],  # empty once clipped
    ]
    outputs = predictions(boxes, [[0.9, 0.2], [0.3, 0.8], [0.99, 0.98], [0.97, 0.96]])

    def detect(**arguments):
        (result,) = processor.post_process_object_detection(outputs, **arguments)
        assert set(result) == {"scores", "labels", "boxes"}
        return result["scores"].tolist(), result["labels"].tolist(), result["boxes"].tolist()

    scores, labels, found = detect(threshold=0.0, target_sizes=[(100, 200)])
    assert scores == pytest.approx([0.9, 0.8, 0.3, 0.2]) and labels == [0, 1, 0, 1]
    first, second = [50, 25, 150, 75], [0, 0, 50, 25]
    for box, expected in zip(found, [first, second, second, first]):
        assert box == pytest.approx(expected)
    assert detect(threshold=0.5, target_sizes=torch.tensor([[100, 200]]))[1] == [0, 1]
    assert detect(threshold=0.85)[2][0] == pytest.approx([0.25, 0.25, 0.75, 0.75])
    assert detect(threshold=0.0, top_k=5)[0] == pytest.approx([0.9])  # the four best are empty
    assert detect()[1] == [0, 1]
    for sizes in ([(100, 200), (100, 200)], [100, 200], [(100, 200, 3)]):
        with pytest.raises(ValueError, match="target_sizes"):
            processor.post_process_object_detection(outputs, target_sizes=sizes)


def test_post_processing_without_duplicates(processor):
    """One label a query is argmax; suppression is torchvision's, over all classes together."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 4, generator=generator) * 0.4 + 0.3
    scores = torch.rand(40, 3, generator=generator)
    outputs = predictions(boxes.tolist(), scores.tolist())

    def detect(**arguments):
        (found,) = processor.post_process_object_detection(outputs, threshold=0.0, **arguments)
        return found

    by_default = detect()
    assert len(by_default["scores"]) == 120
    single = detect(one_label_per_query=True)
    best, labels = scores.max(1)
    order = best.argsort(descending=True)
    assert single["scores"].tolist() == pytest.approx(best[order].tolist())
    assert single["labels"].tolist() == labels[order].tolist()
    corners = box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1)
    assert single["boxes"].flatten().tolist() == pytest.approx(corners[order].flatten().tolist())
    assert len(detect(one_label_per_query=True, top_k=50)["scores"]) == 40
    assert detect(one_label_per_query=True, top_k=7)["labels"].tolist() == labels[order][:7].tolist()

    for found, arguments in ((by_default, {}), (single, {"one_label_per_query": True})):
        suppressed = detect(nms_threshold=0.6, **arguments)
        kept = nms(found["boxes"], found["scores"], 0.6)
        assert 5 < len(kept) < 40
        assert all(torch.equal(suppressed[name], found[name][kept]) for name in ("scores", "labels", "boxes"))
    with pytest.raises(ValueError, match=r"nms_threshold=60: an IoU, from 0 to 1"):
        detect(nms_threshold=60)


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_images_come_as_pil_array_tensor_path_or_list(processor, picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    array = np.asarray(picture)
    expected = processor(picture, return_tensors="pt")
    assert expected["pixel_values"].shape == (1, 3, 64, 96) and expected["pixel_values"].dtype == torch.float32
    assert expected["pixel_mask"].shape == (1, 64, 96) and expected["pixel_mask"].all()
    for images in (
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        str(tmp_path / "picture.png"),
        [picture],
    ):
        given = processor(images, return_tensors="pt")
        assert torch.equal(given["pixel_values"], expected["pixel_values"])
    pair = processor([picture, array], return_tensors="pt")["pixel_values"]
    assert torch.equal(pair, expected["pixel_values"].repeat(2, 1, 1, 1))


def test_pixels_are_normalised_and_padded_at_the_right_and_bottom(processor):
    small, wide = Image.new("RGB", (64, 64), (255, 0, 128)), Image.new("RGB", (96, 64), (0, 0, 0))
    batch = processor([small, wide], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 64, 96)
    assert batch["pixel_mask"][0, :, :64].all() and not batch["pixel_mask"][0, :, 64:].any()
    assert not batch["pixel_values"][0, :, :, 64:].any()
    expected = (np.array([255, 0, 128]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(batch["pixel_values"][0, :, 10, 10].numpy(), expected, atol=1e-5)


def test_pictures_of_every_kind_become_the_same_upright_rgb(processor, picture, tmp_path):
    def pixels(image):
        return processor(image, return_tensors="pt")["pixel_values"]

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = pixels(picture.transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(pixels(Image.open(tmp_path / "turned.png")), upright)
    assert torch.equal(pixels(str(tmp_path / "turned.png")), upright)

    grey = picture.convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256)
    assert sixteen.mode.startswith("I;16")
    for image in (grey, sixteen, grey.convert("P"), grey.convert("LA"), grey.convert("RGBA")):
        assert torch.equal(pixels(image), pixels(grey.convert("RGB"))), image.mode
        image.save(tmp_path / "kind.png")
        assert torch.equal(pixels(str(tmp_path / "kind.png")), pixels(image)), f"path to {image.mode}"
    for array in (np.asarray(grey)[None], np.asarray(grey)[..., None]):
        assert torch.equal(pixels(array), pixels(grey)), f"array of {array.shape}"
    assert torch.equal(pixels(picture.convert("CMYK")), pixels(picture.convert("CMYK").convert("RGB")))


def test_annotations_become_labels_as_documented(processor):
    objects = [
        {"bbox": [10, 20, 30, 40], "category_id": 2, "area": 900, "iscrowd": 0},
        {"bbox": [180, 90, 40, 40], "category_id": 0},  # reaches over the right and bottom border; no area
        {"bbox": [10, 10, 50, 50], "category_id": 1, "iscrowd": 1},  # a crowd
        {"bbox": [10, 10, 0, 5], "category_id": 1},  # empty
        {"bbox": [300, 10, 5, 5], "category_id": 1},  # outside
    ]
    annotations = [{"image_id": 17, "annotations": objects}, {"image_id": 18, "annotations": []}]
    images = [Image.new("RGB", (200, 100)), Image.new("RGB", (50, 100))]
    batch = processor(images, annotations=annotations, return_tensors="pt")
    label, empty = batch["labels"]
    assert label["class_labels"].tolist() == [2, 0] and label["class_labels"].dtype == torch.int64
    expected = torch.tensor([[25 / 200, 40 / 100, 30 / 200, 40 / 100], [190 / 200, 95 / 100, 20 / 200, 10 / 100]])
    torch.testing.assert_close(label["boxes"], expected)
    assert label["orig_size"].tolist() == [100, 200] and label["size"].tolist() == [48, 96]  # the longest edge rules
    assert label["area"].tolist() == pytest.approx([900 * 0.48**2, 1600 * 0.48**2])
    assert label["iscrowd"].tolist() == [0, 0] and label["image_id"].tolist() == [17]
    assert empty["boxes"].shape == (0, 4) and empty["class_labels"].shape == (0,) and empty["image_id"].tolist() == [18]
    assert empty["size"].tolist() == [96, 48]

    one = processor(images[0], annotations=annotations[0], return_tensors="pt")["labels"]
    assert torch.equal(one[0]["boxes"], label["boxes"])
    outputs = tiny_detector().train()(**batch)
    assert torch.isfinite(outputs.loss)


@pytest.mark.parametrize("lacking", ["image_id", "annotations", "bbox", "category_id"])
def test_an_annotation_that_lacks_a_field_is_refused_by_name(processor, picture, lacking):
    annotation = {"image_id": 3, "annotations": [{"bbox": [1, 2, 3, 4], "category_id": 0}]}
    for holder in (annotation, *annotation["annotations"]):
        if lacking in holder:
            del holder[lacking]
            break
    with pytest.raises(ValueError, match=lacking):
        processor(picture, annotations=annotation)
    with pytest.raises(ValueError, match="2 images"):
        processor(picture, annotations=[copy.deepcopy(annotation)] * 2)
