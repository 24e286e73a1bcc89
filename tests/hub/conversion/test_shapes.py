"""Detectors of many shapes, written under the original's names, come back as they were."""

import pytest
import torch
from helpers.original_names import original_names
from helpers.tiny import random_images, shake, tiny_arguments
from safetensors.torch import load_file, save_file

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection
from dino_detr.hub.conversion import load_reference_checkpoint
from dino_detr.hub.conversion.shapes import config_from_shapes

# what the names of each code do not look like; a place of ours stands in the files of both
DETREX = (
    r"(?!backbone\.0\.|input_proj|transformer\.level_embed$|transformer\.enc_out_)"
    r"(?!transformer\.\w+\.layers\.\d+\.(self_attn|cross_attn|linear|norm\d))"
)
OFFICIAL = (
    r"(?!neck\.|transformer\.level_embeds|backbone\.(?!0\.))"
    r"(?!transformer\.\w+\.layers\.\d+\.(attentions|norms|ffns))"
)
THEIRS = {"position_embedding_temperature": 20, "position_embedding_offset": 0.0, "share_decoder_heads": True}

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4]}
VITDET = {
    "model_type": "vitdet", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2,
    "image_size": 96, "pretrain_image_size": 64, "patch_size": 16, "window_size": 3, "window_block_indices": [0, 1],
    "residual_block_indices": [], "use_relative_position_embeddings": True,
}  # fmt: skip
SHAPES = {
    "a ResNet of basic blocks": (DETREX, RESNET | {"layer_type": "basic"}, {}),
    "five levels of a ResNet": (DETREX, RESNET, {"num_feature_levels": 5}),
    "six levels, of which three are made": (DETREX, RESNET, {"num_feature_levels": 6, "maps": 3}),
    "as many maps as levels": (DETREX, RESNET, {"num_feature_levels": 4, "maps": 4}),
    "a ResNet of torchvision": (OFFICIAL, RESNET, THEIRS),
    "the authors' Swin with windows of 12": (OFFICIAL, SWIN | {"window_size": 12}, THEIRS | {"num_feature_levels": 5}),
    "a Swin without biases of attention": (DETREX, SWIN | {"qkv_bias": False, "mlp_ratio": 2.0}, {}),
    "a wide ConvNeXt": (
        DETREX,
        {"model_type": "convnext", "hidden_sizes": [8, 24, 32, 40], "depths": [2, 1, 1, 1]},
        {"decoder_layers": 1, "num_queries": 7},
    ),
    "a ViTDet of other patches": (DETREX, VITDET | {"patch_size": 8}, {"pad_to_patch_size": False}),
    "a ViTDet with four levels of its own": (
        DETREX,
        VITDET,
        {"pyramid_scale_factors": [4.0, 2.0, 1.0, 0.5], "num_feature_levels": 5, "pad_to_patch_size": False},
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_detector_comes_back(case, tmp_path):
    starts, backbone, arguments = SHAPES[case]
    arguments = dict(arguments)
    maps = arguments.pop("maps", None)
    if maps is not None:
        backbone = backbone | {"out_features": [f"stage{5 - maps + i}" for i in range(maps)]}
    torch.manual_seed(0)
    config = DinoDetrConfig(**tiny_arguments(backbone_config=backbone, **arguments))
    model = DinoDetrForObjectDetection(config).eval()
    shake(model, scale=0.05)
    model.save_pretrained(tmp_path)
    state = original_names(load_file(tmp_path / "model.safetensors"), config, starts)
    if starts == OFFICIAL:  # the row that nothing reads
        state["label_enc.weight"] = torch.cat([state["label_enc.weight"], torch.randn(1, 64)])
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, tmp_path / "theirs.safetensors")

    converted = load_reference_checkpoint(tmp_path / "theirs.safetensors")
    images = random_images(1, 3, 77, 90)
    with torch.no_grad():
        ours, theirs = model(images), converted(images)
    torch.testing.assert_close(theirs.logits, ours.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(theirs.pred_boxes, ours.pred_boxes, rtol=0, atol=1e-6)
    told = ("pyramid_scale_factors", "num_feature_levels", "decoder_layers", "encoder_attention_heads", "num_queries")
    assert [getattr(converted.config, name) for name in told] == [getattr(config, name) for name in told]


def test_a_lacking_tensor_is_named(core_golden):
    state = load_file(core_golden / "idea_r50_4scale" / "state_dict.safetensors")
    del state["transformer.encoder.layers.0.linear1.weight"]
    with pytest.raises(ValueError, match=r"some\.pth.*no tensor 'transformer.encoder.layers.0.linear1.weight'"):
        config_from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()}, "some.pth")
