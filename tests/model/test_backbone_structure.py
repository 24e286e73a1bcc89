"""Every backbone of transformers that can be built small, and hierarchical ones of timm: what they give, or why not."""

import pytest
import torch
from helpers.tiny import random_images, random_labels, shake, tiny_arguments
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_BACKBONE_MAPPING

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection
from dino_detr.backbone_structure import examine_backbone, parameter_depths

VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
}  # fmt: skip
DEPTHS = {"depths": [1, 1, 2, 1]}
CONVOLUTIONS = {"hidden_sizes": [8, 16, 24, 32]} | DEPTHS
RESIDUAL = {"embedding_size": 8} | CONVOLUTIONS
WINDOWS = {"image_size": 64, "embed_dim": 8, "num_heads": [1, 1, 2, 2], "window_size": 3} | DEPTHS
HGNET = {
    "stem_channels": [3, 8, 12], "stage_in_channels": [12, 16, 24, 32], "stage_mid_channels": [8] * 4,
    "stage_out_channels": [16, 24, 32, 40], "hidden_sizes": [16, 24, 32, 40], "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [2] * 4, "embedding_size": 8,
}  # fmt: skip
TEXTNET = {
    "stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 24, 32], "conv_layer_kernel_sizes": [[[3, 3]]] * 4,
    "conv_layer_strides": [[2]] * 4,
}  # fmt: skip

HIERARCHICAL = {
    "bit": RESIDUAL | {"num_groups": 4},
    "convnext": CONVOLUTIONS,
    "convnextv2": CONVOLUTIONS,
    "dinov3_convnext": CONVOLUTIONS,
    "hgnet_v2": HGNET | DEPTHS,
    "maskformer-swin": WINDOWS,
    "pp_lcnet": {"scale": 0.25},
    "pp_lcnet_v3": {"scale": 0.25},
    "pvt_v2": {"num_attention_heads": [1, 1, 2, 2], "mlp_ratios": [2] * 4} | CONVOLUTIONS,
    "resnet": RESIDUAL,
    "rt_detr_resnet": RESIDUAL,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "textnet": TEXTNET,
}
PLAIN = {
    "beit": VIT | {"intermediate_size": 64, "use_relative_position_bias": True},
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "dinov3_vit": VIT | {"intermediate_size": 64},
    "pixio": VIT,
    "rf_detr_dinov2": VIT | {"num_windows": 1},
    "sapiens2": VIT | {"intermediate_size": 64},
    "tipsv2_vision_model": VIT,
    "vitdet": VIT | {"window_size": 2, "window_block_indices": [0], "use_relative_position_embeddings": True},
}
TIMM = {
    "convnext_atto": {"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
    "mobilenetv3_small_050": {},
    "pvt_v2_b0": {"embed_dims": [8, 16, 24, 32], "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
    "swin_tiny_patch4_window7_224": {"embed_dim": 8, "num_heads": [1, 1, 2, 2], "strict_img_size": False} | DEPTHS,
}
REFUSED = {
    "focalnet": (
        {"image_size": 64, "embed_dim": 8, "hidden_sizes": [8, 16, 32, 64]} | DEPTHS,
        "not maps of 16, 32, 64 channels",
    ),
    "hiera": ({"image_size": [64, 64], "embed_dim": 8} | DEPTHS, "takes images of any size"),
    "lw_detr_vit": (VIT | {"num_windows": 4, "window_block_indices": [0]}, "takes images of any size"),
    "pp_lcnet_v4": ({}, "each smaller than the one before"),
    "rf_detr_dinov2": (VIT | {"num_windows": 2}, "takes images of any size"),
    "uvdoc_backbone": ({}, "not maps of"),
    "vitpose_backbone": (VIT | {"image_size": [64, 64], "patch_size": [16, 16]}, "doesn't match model"),
    "vitdet": (VIT | {"out_features": ["stage1", "stage2"]}, "32x20x24, 32x20x24, .* each smaller than the one before"),
    "dinov2": (VIT | {"reshape_hidden_states": False}, "it gives no maps"),
    "timm_backbone": ({"backbone": "mixer_s32_224"}, "mixer_s32_224 cannot be the backbone.* doesn't match model"),
}
SLOW = ("pp_lcnet_v3", "convnextv2", "maskformer-swin", "rt_detr_resnet", "pixio")  # large, or as others are
KINDS = [*HIERARCHICAL, *PLAIN, *(f"timm:{name}" for name in TIMM)]
KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in KINDS]
STAGES_DIFFER = ["beit", "dinov3_convnext", "resnet", "swin", "timm:mobilenetv3_small_050", "timm:resnet18"]
SIZES = [(1, 1), (17, 40), (101, 133)]


def detector(kind: str, **arguments) -> DinoDetrForObjectDetection:
    backbone = {"model_type": kind} | (HIERARCHICAL | PLAIN).get(kind, {})
    if kind.startswith("timm:"):
        name = kind.removeprefix("timm:")
        backbone = {"backbone": name, "out_indices": [-3, -2, -1], "timm_arguments": TIMM[name]}
        backbone["model_type"] = "timm_backbone"
    torch.manual_seed(0)
    model = DinoDetrForObjectDetection(DinoDetrConfig(**tiny_arguments(backbone_config=backbone, **arguments)))
    shake(model, scale=0.02)
    return model


def test_every_backbone_of_transformers_is_here():
    """But for one that needs a compiled library, and one that is `tipsv2_vision_model` and a model of text."""
    known = {config.model_type for config in MODEL_FOR_BACKBONE_MAPPING}
    assert known - {"dinat", "tipsv2"} <= {*HIERARCHICAL, *PLAIN, *REFUSED}


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_any_size_go_to_pyramid_or_neck(kind):
    """Several to the neck as they are, each of its channels and smaller than the one before; one to the pyramid."""
    model = detector(kind, num_denoising=0).eval()
    assert (model.model.pyramid is None) == (kind not in PLAIN)
    backbone = model.model.backbone
    assert len(backbone.channels) == (1 if kind in PLAIN else 3) == model.config.num_backbone_maps
    for height, width in SIZES:
        images = random_images(1, 3, height, width)
        with torch.no_grad():
            maps, outputs = backbone(images), model(images)
        for feature_map, channels, stride in zip(maps, backbone.channels, backbone.facts.strides, strict=True):
            assert feature_map.shape[1] == channels
            for side, cells in zip((height, width), feature_map.shape[2:]):  # (whole cells, or what is left over too)
                assert (
                    max(side, backbone.stride) // stride
                    <= cells
                    <= max(1, 2 // len(maps), -(-side // stride)) + (backbone.stride // stride - 1)
                )
        assert len(maps) == 1 or backbone.facts.strides == (8, 16, 32)
        assert outputs.logits.isfinite().all() and outputs.logits.shape[2] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_leaves_no_parameter_without_gradient_and_batch_norms_alone(kind, tmp_path):
    """Else DDP stops; and what is saved then is loaded with the same bits."""
    model = detector(kind, freeze_backbone=False).train()
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    statistics = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    model(random_images(2, 3, 70, 101), labels=random_labels(2, 1)).loss.backward()
    named = dict(model.named_parameters())
    assert not [name for name, p in named.items() if p.requires_grad and p.grad is None]
    trained = [name for name, p in named.items() if ".backbone." in name and p.requires_grad]
    assert len(trained) > 0.5 * len(list(model.model.backbone.parameters())) or norms
    for norm, before in zip(norms, statistics):
        assert not norm.training and not any(p.requires_grad for p in norm.parameters())
        assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())

    model.eval().save_pretrained(tmp_path)
    loaded = DinoDetrForObjectDetection.from_pretrained(tmp_path)
    images = random_images(1, 3, 101, 133)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        name for name, p in named.items() if p.requires_grad
    }


@pytest.mark.parametrize("kind", STAGES_DIFFER)
def test_stages_are_frozen_from_the_stem_on(kind):
    """Without gradient and in eval mode, nothing else is; more than there are is an error that says how many."""
    whole = detector(kind, freeze_backbone=0).model.backbone
    depths, num_stages = parameter_depths(whole.model)
    assert num_stages == (2 if kind in PLAIN else num_stages) and num_stages in (2, 4, 5)
    trained = {name for name, p in whole.model.named_parameters() if p.requires_grad}
    assert set(range(1, num_stages + 1)) <= set(depths.values())
    first = min(depths.values())
    count = num_stages + 1 - first
    for frozen in (1, 2, count):
        backbone = detector(kind, freeze_backbone=frozen).train().model.backbone
        depths, _ = parameter_depths(backbone.model)
        named = dict(backbone.model.named_parameters())
        left = {name for name, p in named.items() if p.requires_grad}
        assert left == {name for name in trained if depths[named[name]] - first >= frozen}
        for module in backbone.model.modules():
            own = [p for p in module.parameters() if not p.requires_grad or not isinstance(module, nn.BatchNorm2d)]
            if own:
                assert module.training == any(p.requires_grad for p in own), type(module)
    with pytest.raises(ValueError, match=f"freeze_backbone={count + 1}, but this backbone has {count} stages"):
        detector(kind, freeze_backbone=count + 1)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_a_backbone_is_refused_when_the_model_is_built(kind):
    arguments, said = REFUSED[kind]
    with pytest.raises(ValueError, match=said) as raised:
        DinoDetrForObjectDetection(DinoDetrConfig(**tiny_arguments(backbone_config={"model_type": kind} | arguments)))
    assert "\n" not in str(raised.value)


def test_building_draws_no_random_number_for_the_examination():
    """Weights of a seed are the same, however often a backbone was examined before."""
    config = CONFIG_MAPPING["swin"](**WINDOWS | {"embed_dim": 16})
    before = torch.random.get_rng_state()
    examine_backbone(config)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_can_be_built_where_nothing_is_to_be_recorded():
    with torch.inference_mode():
        assert (
            "embeddings.mask_token"
            in examine_backbone(CONFIG_MAPPING["dinov2"](**VIT | {"num_hidden_layers": 1})).unused
        )
