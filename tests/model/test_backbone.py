"""The backbone against the libraries it comes from: features, sizes, pretrained weights, freezing."""

import copy
import logging

import pytest
import timm
import torch
from helpers.tiny import (
    ALL_BACKBONES,
    PLAIN_BACKBONES,
    TRANSFORMERS_BACKBONES,
    random_images,
    random_labels,
    shake,
    tiny_arguments,
    tiny_backbone_config,
    tiny_config,
    tiny_detector,
)
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch.nn import functional as F
from transformers import (
    AutoModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetForImageClassification,
    SwinForImageClassification,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
    ViTModel,
)

from dino_detr import DinoDetrForObjectDetection

NATIVE = (64, 64)  # 4x4 patches of 16 pixels, as the position grid
OTHER_SIZES = [(96, 96), (32, 160), (80, 48)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """kind, arguments -> (the library's own model, the folder it is saved in)."""
    made = {}

    def make(kind, **arguments):
        key = (kind, *sorted(arguments.items()))
        if key not in made:
            torch.manual_seed(0)
            model = AutoModel.from_config(tiny_backbone_config(kind, **arguments)).eval()
            shake(model, scale=0.2)
            folder = tmp_path_factory.mktemp(kind)
            model.save_pretrained(folder)
            made[key] = model, folder
        return made[key]

    return make


def from_backbone(source, patch_size=16, **arguments):
    return DinoDetrForObjectDetection.from_backbone(str(source), patch_size=patch_size, **tiny_arguments(**arguments))


@torch.no_grad()
def library_map(model, images):
    """The last block's patch tokens `[B, C, h, w]`: raw from DINOv2, normed from DINOv3."""
    outputs = model(images, output_hidden_states=True)
    tokens = outputs.last_hidden_state if model.config.model_type == "dinov3_vit" else outputs.hidden_states[-1]
    grid = [side // model.config.patch_size for side in images.shape[-2:]]
    return tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)


def backbone_map(detector, images):
    with torch.no_grad():
        (feature_map,) = detector.model.backbone(images)
    return feature_map


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "unfrozen"])
@pytest.mark.parametrize("kind", TRANSFORMERS_BACKBONES)
def test_features_are_the_library_models(kind, frozen, checkpoint):
    """At any whole number of patches, with `position_embedding_antialias=False`; so pretrained weights arrive."""
    library, folder = checkpoint(kind)
    detector = from_backbone(folder, freeze_backbone=frozen, position_embedding_antialias=False)
    if not frozen:
        detector.eval()  # DINOv3's positions are random in training; a frozen backbone never trains
    for size in [NATIVE, *OTHER_SIZES]:
        images = random_images(2, 3, *size)
        torch.testing.assert_close(backbone_map(detector, images), library_map(library, images), atol=1e-5, rtol=1e-5)


def test_antialiased_positions_are_timms(checkpoint):
    """The same at the native size; elsewhere those of a model whose position grid timm resampled beforehand."""
    library, folder = checkpoint("dinov2")
    detector = from_backbone(folder, position_embedding_antialias=True)
    images = random_images(1, 3, *NATIVE)
    torch.testing.assert_close(backbone_map(detector, images), library_map(library, images), atol=1e-5, rtol=1e-5)

    for side in (96, 32):
        images = random_images(1, 3, side, side)
        resized = AutoModel.from_config(tiny_backbone_config("dinov2", image_size=side)).eval()
        weights = library.state_dict()
        weights["embeddings.position_embeddings"] = resample_abs_pos_embed(
            weights["embeddings.position_embeddings"], [side // 16, side // 16], num_prefix_tokens=1, antialias=True
        )
        resized.load_state_dict(weights)
        features = backbone_map(detector, images)
        torch.testing.assert_close(features, library_map(resized, images), atol=1e-5, rtol=1e-5)
    # only shrinking the grid tells antialiasing from none
    assert (features - library_map(library, images)).abs().max() > 1e-2


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 53), (64, 15)])
@pytest.mark.parametrize("kind", [*PLAIN_BACKBONES, "vitdet"])
def test_any_size_is_zero_padded_to_whole_patches(kind, size):
    backbone = tiny_detector(kind).model.backbone
    images = random_images(1, 3, *size)
    cells = [max(2, -(-side // 16)) for side in size]
    padded = torch.zeros(1, 3, *(16 * count for count in cells))
    padded[:, :, : size[0], : size[1]] = images
    (features,) = backbone(images)
    assert features.shape == (1, 32, *cells)
    assert torch.equal(features, backbone(padded)[0])


@pytest.mark.parametrize("kind", TRANSFORMERS_BACKBONES)
def test_patch_size_changes_by_pseudo_inverse_resize(kind, checkpoint, caplog):
    """An enlarged patch embeds as the patch did; the position grid fits the new patches; one line says so."""
    library, folder = checkpoint(kind, patch_size=14, image_size=56)
    with caplog.at_level(logging.WARNING):
        detector = from_backbone(folder, patch_size=16)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("dino_detr")]
    assert len(said) == 1 and "14 -> 16" in said[0] and str(folder) in said[0]
    assert ("position grid 4 -> 3" in said[0]) == (kind != "dinov3_vit")  # which has rotary positions

    name = "embeddings.patch_embeddings" + (".projection" if kind != "dinov3_vit" else "")
    old, new = library.get_submodule(name), detector.model.backbone.model.get_submodule(name)
    torch.testing.assert_close(new.weight.detach(), resample_patch_embed(old.weight.detach(), [16, 16]))
    assert torch.equal(new.bias, old.bias)
    patches = random_images(5, 3, 14, 14)
    enlarged = F.interpolate(patches, size=(16, 16), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(new(enlarged), old(patches), atol=1e-3, rtol=1e-3)

    if kind != "dinov3_vit":
        grid = detector.model.backbone.model.embeddings.position_embeddings.detach()
        expected = resample_abs_pos_embed(
            library.embeddings.position_embeddings.detach(), [3, 3], num_prefix_tokens=1, antialias=True
        )
        torch.testing.assert_close(grid, expected)
    assert detector.config.backbone_config.patch_size == 16
    assert backbone_map(detector, random_images(1, 3, 48, 64)).shape == (1, 32, 3, 4)


@pytest.mark.parametrize("kind", TRANSFORMERS_BACKBONES)
def test_patch_size_none_keeps_the_checkpoints(kind, checkpoint):
    library, folder = checkpoint(kind, patch_size=14, image_size=56)
    detector = from_backbone(folder, patch_size=None, position_embedding_antialias=False)
    images = random_images(1, 3, 42, 84)
    torch.testing.assert_close(backbone_map(detector, images), library_map(library, images), atol=1e-5, rtol=1e-5)


def test_a_backbone_checkpoint_that_lacks_weights_is_refused(checkpoint, tmp_path):
    library, _ = checkpoint("dinov2")
    library.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lacking = next(name for name in weights if name.endswith("fc1.weight"))
    del weights[lacking]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights.*fc1.weight"):
        from_backbone(tmp_path)


def test_unsupported_backbones_are_refused_by_name(tmp_path):
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'vit'.*dinov2"):
        from_backbone(tmp_path)
    with pytest.raises(ValueError, match="no_such_type"):
        tiny_config(backbone_config={"model_type": "no_such_type"})


# -- timm


def test_timm_features_are_timms():
    detector = tiny_detector("timm_backbone")
    arguments = detector.config.backbone_config.timm_arguments
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments).eval()
    prefix = "_backbone.model."
    weights = {name.removeprefix(prefix): value for name, value in detector.model.backbone.model.state_dict().items()}
    missing, unexpected = vit.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"norm.weight", "norm.bias"}
    for size in [NATIVE, *OTHER_SIZES]:
        images = random_images(2, 3, *size)
        with torch.no_grad():
            (expected,) = vit.forward_intermediates(images, indices=1, norm=False, intermediates_only=True)
        torch.testing.assert_close(backbone_map(detector, images), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def timm_weights(monkeypatch):
    """What timm would download for `vit_tiny_patch16_224`, made here."""
    weights = timm.create_model("vit_tiny_patch16_224").state_dict()
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: copy.deepcopy(weights), raising=True
    )
    return weights


@pytest.mark.parametrize("patch_size", [16, 14])
def test_timm_pretrained_weights_arrive(patch_size, timm_weights, caplog, tmp_path):
    with caplog.at_level(logging.WARNING, logger="dino_detr"):
        detector = from_backbone("timm:vit_tiny_patch16_224", patch_size=patch_size)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("dino_detr")]
    assert len(said) == (patch_size != 16) and all("16 -> 14" in line for line in said)
    expected = dict(timm_weights)
    if patch_size != 16:
        expected["patch_embed.proj.weight"] = resample_patch_embed(expected["patch_embed.proj.weight"], [14, 14])
        expected["pos_embed"] = resample_abs_pos_embed(expected["pos_embed"], [16, 16], num_prefix_tokens=1)
    arrived = detector.model.backbone.model._backbone.model.state_dict()
    assert len(arrived) > 100
    for name, value in arrived.items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")

    detector.save_pretrained(tmp_path)
    reloaded = DinoDetrForObjectDetection.from_pretrained(tmp_path)
    images = random_images(1, 3, 70, 56)
    assert torch.equal(backbone_map(reloaded.eval(), images), backbone_map(detector.eval(), images))


@pytest.mark.parametrize("num_levels", [4, 5])
def test_weights_of_timms_hierarchical_models_arrive(num_levels, monkeypatch, tmp_path):
    """The maps of the last stages, one level less than the detector has, are timm's own."""
    network = timm.create_model("resnet18").eval()
    shake(network, scale=0.02)
    weights = network.state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: copy.deepcopy(weights))
    detector = from_backbone("timm:resnet18", num_feature_levels=num_levels, freeze_backbone=1)
    indices = [1, 2, 3, 4][5 - num_levels :]
    taken = timm.create_model("resnet18", features_only=True, out_indices=indices).eval()
    taken.load_state_dict(weights, strict=False)
    images = random_images(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(detector.eval().model.backbone(images), taken(images), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(detector.model.neck.levels) == num_levels and detector.model.pyramid is None
    detector.save_pretrained(tmp_path)
    assert torch.equal(DinoDetrForObjectDetection.from_pretrained(tmp_path)(images).logits, detector(images).logits)


@pytest.mark.parametrize("name", ["mixer_s32_224", "hiera_tiny_224", "maxvit_rmlp_pico_rw_256", "no_such_model"])
def test_timm_models_of_one_image_size_are_refused_by_name(name, monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError(f"{name} was downloaded before it was refused")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    with pytest.raises(ValueError, match=name):
        from_backbone(f"timm:{name}")


# -- hierarchical backbones and ViTDet


CLASSIFIERS = {
    "resnet": (ResNetForImageClassification, {}),
    "swin": (SwinForImageClassification, {"image_size": 64}),
    "convnext": (ConvNextForImageClassification, {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}),
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """kind -> (a classifier as the Hub has them, the folder it is saved in)."""

    def make(kind):
        torch.manual_seed(0)
        model_class, arguments = CLASSIFIERS[kind]
        config = tiny_backbone_config(kind, **arguments) if kind != "convnext" else ConvNextConfig(**arguments)
        model = model_class(config).eval()
        shake(model, scale=0.05)
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        return model, folder

    return make


@pytest.mark.parametrize("num_levels", [4, 5])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_weights_of_a_classifier_arrive(kind, num_levels, classifier):
    """
    The last stages' maps, one fewer than levels, are the classifier's hidden states. Swin and ConvNeXt norm them with
    norms that no classifier has.
    """
    library, folder = classifier(kind)
    detector = from_backbone(folder, num_feature_levels=num_levels)
    images = random_images(2, 3, 96, 160)
    last_blocks = []  # of Swin, whose hidden states are those after the next stage's downsampling
    for stage in library.swin.encoder.layers if kind == "swin" else []:
        stage.blocks[-1].register_forward_hook(lambda module, inputs, output: last_blocks.append(output[0]))
    with torch.no_grad():
        states = library(images, output_hidden_states=True).hidden_states
        maps = detector.model.backbone(images)
    assert len(maps) == num_levels - 1
    for index, found in enumerate(maps, start=-len(maps)):
        expected = states[index]
        if kind == "swin":
            expected = last_blocks[index].transpose(1, 2).unflatten(2, found.shape[2:])
        if kind != "resnet":
            eps = 1e-6 if kind == "convnext" else 1e-5
            expected = F.layer_norm(expected.permute(0, 2, 3, 1), expected.shape[1:2], eps=eps).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    cells = [24 * 40, 12 * 20, 6 * 10, 3 * 5, 2 * 3]
    assert detector(images).encoder_last_hidden_state.shape[1] == sum(cells[5 - num_levels :][:num_levels])


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """(a ViT pretrained as MAE, the folder it is saved in)."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    decoder = {f"decoder_{name}": value for name, value in small.items()}
    config = ViTMAEConfig(image_size=64, patch_size=16, mask_ratio=0.0, **small, **decoder)
    model = ViTMAEForPreTraining(config).eval()
    shake(model, scale=0.1)
    folder = tmp_path_factory.mktemp("mae")
    model.save_pretrained(folder)
    return model, folder


def test_a_vit_of_mae_becomes_a_vitdet(mae):
    """
    In an image of one window, with relative positions of zero, its blocks are the ViT's, without a class token:
    they are run one by one here on the patches alone.
    """
    library, folder = mae
    detector = from_backbone(folder)
    config = detector.config.backbone_config
    assert (config.model_type, config.window_size, config.window_block_indices) == ("vitdet", 14, [])
    assert detector.config.num_backbone_maps == 1 and detector.model.pyramid is not None
    vit, images = library.vit, random_images(2, 3, 64, 64)
    with torch.no_grad():
        hidden = vit.embeddings.patch_embeddings(images) + vit.embeddings.position_embeddings[:, 1:]
        for block in vit.layers if hasattr(vit, "layers") else vit.encoder.layer:
            output = block(hidden)
            hidden = output[0] if isinstance(output, tuple) else output
        found = backbone_map(detector, images)
    torch.testing.assert_close(found, hidden.transpose(1, 2).unflatten(2, (4, 4)), atol=1e-5, rtol=1e-5)
    positions = [p for name, p in detector.named_parameters() if ".rel_pos_" in name]
    assert len(positions) == 8 and not any(p.any() for p in positions)


def test_blocks_of_a_vitdet_attend_in_windows_but_for_the_last_of_each_quarter(tmp_path):
    """As detectron2's and detrex's ViT-B: blocks 2, 5, 8 and 11 of 12 see the whole image."""
    config = ViTMAEConfig(
        hidden_size=32, num_hidden_layers=12, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16
    )
    ViTMAEModel(config).save_pretrained(tmp_path)
    detector = from_backbone(tmp_path, backbone_config={"drop_path_rate": 0.1})
    found = detector.config.backbone_config
    assert found.window_block_indices == [0, 1, 3, 4, 6, 7, 9, 10] and found.drop_path_rate == 0.1
    assert found.image_size == 64 * 16 and found.pretrain_image_size == 64 and found.layer_norm_eps == 1e-6


def test_what_cannot_be_changed_of_a_pretrained_backbone_is_said(classifier, mae):
    _, swin = classifier("swin")
    detector = from_backbone(swin, patch_size=None, backbone_config={"drop_path_rate": 0.3, "out_features": ["stage3"]})
    assert detector.config.backbone_config.drop_path_rate == 0.3
    assert detector.config.num_backbone_maps == 1 and detector.model.pyramid is not None
    for source, arguments, said in [
        (swin, {"patch_size": 8}, "patch_size=8, but .* is hierarchical and has no patch size to change"),
        ("timm:resnet18", {"patch_size": 8}, "patch_size=8, but timm:resnet18 is hierarchical"),
        (mae[1], {"patch_size": 8}, "the patches of a 'vitdet' stay 16 pixels wide"),
        (swin, {"backbone_config": {"drop_rate": 0.3}}, "is a swin, which has no field 'drop_rate'"),
        (swin, {"backbone_config": {"model_type": "resnet"}}, "is a swin, not a resnet"),
        (swin, {"pyramid_scale_factors": [2.0, 1.0]}, "3 maps, which go to the neck as they are: leave pyramid_scale"),
        (swin, {"num_feature_levels": 2, "backbone_config": {"out_features": ["stage1", "stage2", "stage3"]}},
         "num_feature_levels=2 is less than the 3 maps of the backbone"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, StrictDataclassError), match=said):
            from_backbone(source, **arguments)


def test_drop_path_of_a_pretrained_backbone_is_on_in_training_only(classifier):
    _, folder = classifier("swin")
    detector = from_backbone(folder, freeze_backbone=2, backbone_config={"drop_path_rate": 0.5})
    images, backbone = random_images(16, 3, 32, 32), detector.train().model.backbone
    first, second = backbone(images), backbone(images)
    assert not torch.equal(first[-1], second[-1])
    frozen = backbone.model.swin.encoder.layers[0]
    assert not any(module.training for module in frozen.modules())
    detector.eval()
    assert torch.equal(backbone(images)[-1], backbone(images)[-1])


# -- freezing


@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_a_frozen_backbone_gets_no_graph_no_gradient_and_stays_in_the_checkpoint(kind, tmp_path):
    built = tiny_detector(kind)
    built.save_pretrained(tmp_path)
    saved = [name for name in load_file(tmp_path / "model.safetensors") if name.startswith("model.backbone.")]
    weights = built.model.backbone.state_dict()  # the statistics of batch norms too
    assert len(saved) == len(weights) > 20
    loaded = DinoDetrForObjectDetection.from_pretrained(tmp_path)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.model.backbone.state_dict().items())

    for model in (DinoDetrForObjectDetection(built.config), built, loaded):
        assert not any(module.training for module in model.model.backbone.model.modules())
        model.train()
        assert model.model.encoder.training
        assert not any(module.training for module in model.model.backbone.model.modules())
        assert model.model.backbone(random_images(1, 3, 32, 32))[0].grad_fn is None
        model(random_images(1, 3, 64, 64), labels=random_labels(2)).loss.backward()
        for name, parameter in model.model.backbone.named_parameters():
            assert not parameter.requires_grad and parameter.grad is None, name
        assert model.model.neck.levels[0][0].weight.grad.abs().max() > 0


def batch_norms(module):
    return [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("kind", ALL_BACKBONES)
def test_everything_trainable_gets_a_gradient(kind, tmp_path):
    """With and without boxes, denoising or not, after loading too: else DistributedDataParallel would stop."""
    tiny_detector(kind, freeze_backbone=False).save_pretrained(tmp_path)
    for num_denoising in (10, 0):
        model = DinoDetrForObjectDetection.from_pretrained(tmp_path, num_denoising=num_denoising).train()
        trainable = dict(model.named_parameters())
        off = {name for name, parameter in trainable.items() if not parameter.requires_grad}
        frozen = {p for norm in batch_norms(model) for p in norm.parameters()}
        left = {name for name in off if trainable[name] not in frozen}
        assert all("mask_token" in name or "layernorm" in name for name in left), left
        for counts in ([3, 0], [0, 0]):
            model.zero_grad(set_to_none=True)
            model(random_images(2, 3, 64, 48), labels=random_labels(*counts)).loss.backward()
            without = {name for name in set(trainable) - off if trainable[name].grad is None}
            assert not without, (counts, without)
        assert model.model.backbone.model.training


@pytest.mark.parametrize(
    "names", [["cat", "dog"], ("cat", "dog"), {0: "cat", 1: "dog"}, {"0": "cat", "1": "dog"}], ids=str
)
def test_class_names_come_in_any_form(names, checkpoint):
    _, folder = checkpoint("dinov2")
    config = from_backbone(folder, id2label=names).config
    assert config.id2label == {0: "cat", 1: "dog"} and config.label2id == {"cat": 0, "dog": 1}
    assert config.num_labels == 2
