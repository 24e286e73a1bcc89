"""Every tensor of every published detector has a place, and every place gets a tensor."""

import gzip
import re

import pytest
import torch
from conftest import ZOO
from helpers.original_names import original_names

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection
from dino_detr.hub.conversion.names import convert_state_dict
from dino_detr.hub.conversion.shapes import config_from_shapes

LISTS = sorted(path.name for path in (ZOO / "names").glob("*.txt*")) if ZOO.is_dir() else []
MILLIONS = {  # of parameters, as published: distinct values, buffers and the rows that nothing reads included
    "r50_4scale": 47.76, "r50_5scale": 48.12, "r101_4scale": 66.80, "swin_tiny_224": 48.2, "swin_small_224": 69.6,
    "swin_base_384": 108.8, "swin_large_224": 217.8, "swin_large_384_4scale": 218.5, "swin_large_384_5scale": 218.8,
    "convnext_tiny": 48.5, "convnext_small": 70.1, "convnext_base": 108.9, "convnext_large": 219.0,
    "vitdet_base": 108.2, "vitdet_large": 326.8, "4scale_r50": 47.0, "5scale_r50": 47.4, "4scale_swinL": 217.7,
    "5scale_swinL": 218.1, "dinov2_vitdet": 108.7,
}  # fmt: skip


def read_list(path):
    """{name: a tensor without contents} of a list with a line `name 3x4 [dtype]` for each tensor."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    state = {}
    for line in text.splitlines():
        name, *rest = line.split()
        shape = [int(side) for side in rest[0].split("x")] if rest and rest[0][0].isdigit() else []
        state[name] = torch.empty(shape, device="meta")
    return state


@pytest.mark.parametrize("name", LISTS)
def test_every_list_converts_and_converts_back(name, zoo):
    state = read_list(zoo / "names" / name)
    config = DinoDetrConfig(**config_from_shapes({name: tuple(value.shape) for name, value in state.items()}, name))
    converted = convert_state_dict(state, config)
    with torch.device("meta"):
        model = DinoDetrForObjectDetection(config)
    assert len(converted) == len(model.state_dict())
    shapes = sorted(tuple(value.shape) for value in model.state_dict().values())
    assert sorted(tuple(value.shape) for value in converted.values()) == shapes
    millions = next(value for part, value in MILLIONS.items() if part in name)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=6e-3)
    if name.startswith("detrex_dino_r") or "convnext" in name or "r50" in name:
        assert config.num_backbone_maps == config.num_feature_levels - 1
    assert config.num_labels == 80 and config.category_ids[-1] == 90 and config.id2label[79] == "toothbrush"

    kept = {
        original: tuple(value.shape)
        for original, value in state.items()
        if not re.search(r"relative_position_index|pixel_mean|pixel_std", original)
    }
    official = name.startswith("official")
    starts = (
        r"input_proj|backbone\.0\.|class_embed|bbox_embed|label_enc|transformer\." if official else r"(?!input_proj)"
    )
    restored = original_names(converted, config, starts)
    backward = {original: tuple(value.shape) for original, value in restored.items() if original in kept}
    assert set(kept) <= set(restored), sorted(set(kept) - set(restored))[:5]
    rows = {original for original in kept if kept[original] != backward[original]}
    # the rows of ids that are no classes: of the decoder's heads, and of denoising
    assert all(re.search(r"class_embed|label_enc", original) for original in rows) and bool(rows) == official


def test_the_91_columns_become_80_and_the_encoders_keep_all_that_compete():
    torch.manual_seed(0)
    fields = dict(backbone_config={"model_type": "resnet", "depths": [1, 1, 1, 1]}, decoder_layers=2, d_model=32)
    ids = [i for i in range(91) if i not in (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    names = {i: str(i) for i in range(80)}
    config = DinoDetrConfig(**fields, id2label=names, category_ids=ids, num_unused_classes=11, share_decoder_heads=True)
    head, encoder, rows = torch.randn(91, 32), torch.randn(91, 32), torch.randn(92, 32)
    state = {f"class_embed.{layer}.weight": head for layer in (0, 1)}
    state |= {"transformer.enc_out_class_embed.weight": encoder, "label_enc.weight": rows}
    converted = convert_state_dict(state, config)
    assert set(converted) == {f"model.{n}.weight" for n in ("class_embed.0", "class_embed.1", "denoising_class_embed")}
    assert torch.equal(converted["model.class_embed.0.weight"], head[ids])
    assert torch.equal(converted["model.denoising_class_embed.weight"], rows[ids])
    assert torch.equal(converted["model.class_embed.1.weight"][:80], encoder[ids])
    assert sorted(converted["model.class_embed.1.weight"].sum(1).tolist()) == sorted(encoder.sum(1).tolist())


def test_a_name_without_a_place_is_told():
    config = DinoDetrConfig(backbone_config={"model_type": "resnet"})
    with pytest.raises(ValueError, match=r"no place for 1 tensors.*backbone\.res9\.0\.conv1\.weight"):
        convert_state_dict({"backbone.res9.0.conv1.weight": torch.zeros(1)}, config)
