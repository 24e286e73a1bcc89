"""The configuration refuses what it does not know, and every option of it does something."""

import json
import logging

import pytest
import torch
from helpers.tiny import (
    random_images,
    random_labels,
    tiny_backbone_config,
    tiny_config,
    tiny_detector,
)
from huggingface_hub.errors import StrictDataclassError

from dino_detr import DinoDetrConfig
from dino_detr.training import build_optimizer

REFUSED = (ValueError, TypeError, StrictDataclassError)


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
    "class_loss": "iou_aware",
    "class_weights": [1.0, 5.0, 0.5],
    "bbox_loss_coefficient": 3.0,
    "giou_loss_coefficient": 3.0,
    "focal_alpha": 0.5,
    "focal_gamma": 1.0,
    "category_ids": [3, 7, 9],
    "pad_to_patch_size": False,
    "position_embedding_temperature": 20,
    "position_embedding_offset": 0.0,
    "share_decoder_heads": True,
    "num_unused_classes": 2,
    "decay_norms": True,
}


DRAWN_ON = {"images": random_images(2, 3, 37, 50), "labels": random_labels(4, 2)}


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
        "decay": [(group["weight_decay"], len(group["params"])) for group in build_optimizer(model).param_groups],
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
