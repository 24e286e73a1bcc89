"""A reference's own configuration: what it adds to the shapes, and where it contradicts them or the model."""

import json

import pytest

from dino_detr.hub.conversion import load_reference_checkpoint

FOLDERS = ["", "idea_r50_4scale"]  # the two forms of the configuration


def load_with(folder, tmp_path, change):
    reference = json.loads((folder / "config.json").read_text())
    change(reference)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(reference))
    return load_reference_checkpoint(folder / "state_dict.safetensors", path).config


def setting(path, value):
    def change(reference):
        *places, last = path.split(".")
        for place in places:
            reference = reference[place]
        assert last in reference
        reference[last] = value

    return change


def test_values_that_shapes_do_not_tell_arrive(core_golden, tmp_path):
    folder = core_golden / "idea_r50_4scale"
    for path, field, value in [
        ("transformer.num_heads", "decoder_attention_heads", 8),
        ("transformer.num_heads", "encoder_attention_heads", 8),
        ("denoising.dn_number", "num_denoising", 33),
        ("denoising.box_noise_scale", "box_noise_scale", 0.7),
        ("position_embedding.temperatureH", "position_embedding_temperature", 50),
        ("position_embedding.offset", "position_embedding_offset", -0.25),
        ("matcher.cost_giou", "giou_cost", 3.0),
        ("focal.gamma", "focal_gamma", 1.5),
    ]:
        changes = [setting(path, value)]
        together = {"focal.gamma": ("matcher.gamma", value), "transformer.num_heads": ("transformer.num_points", 2)}
        if path in together:
            changes.append(setting(*together[path]))
        config = load_with(folder, tmp_path, lambda reference, changes=changes: [c(reference) for c in changes])
        assert getattr(config, field) == value, path


@pytest.mark.parametrize(
    ("folder", "path", "value", "said"),
    [
        ("", "neck_norm", "BN", "neck_norm is BN"),
        ("", "vit.final_norm", True, "vit.final_norm is True"),
        ("", "enc_layers", 5, "enc_layers is 5, but the tensors have 2"),
        ("", "matcher.alpha", 0.3, r"matcher.alpha is 0.3.*0.25"),
        ("", "loss_weights.loss_giou_enc", 7, "loss_giou_enc is 7"),
        ("", "feature_names", ["p4", "p3", "p5", "p6"], "feature_names"),
        ("idea_r50_4scale", "two_stage.learn_wh", True, "two_stage.learn_wh is True"),
        ("idea_r50_4scale", "transformer.num_heads", 8, "8 heads with 4 points are not the tensors' 16"),
        ("idea_r50_4scale", "transformer.dropout", 0.1, "transformer.dropout is 0.1"),
        ("idea_r50_4scale", "two_stage.num_queries", 900, "two_stage.num_queries is 900, but the tensors have 24"),
    ],
)  # fmt: skip
def test_what_contradicts_is_named(folder, path, value, said, core_golden, tmp_path):
    with pytest.raises(ValueError, match=said):
        load_with(core_golden / folder, tmp_path, setting(path, value))


def test_what_shapes_do_not_tell_must_be_given(core_golden):
    """The heads of a ViT whose width is none of DINOv2's."""
    with pytest.raises(ValueError, match=r"do not tell num_attention_heads.*--reference-config"):
        load_reference_checkpoint(core_golden / "state_dict.safetensors")
