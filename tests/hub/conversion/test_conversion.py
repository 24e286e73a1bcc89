"""Converted detectors give the numbers of the code they come from, family by family."""

import json

import pytest
import torch
from conftest import CORE, ZOO
from helpers.original_names import names_of_parameters
from safetensors.torch import load_file

from dino_detr import DinoDetrForObjectDetection, DinoDetrImageProcessor
from dino_detr.denoising import DenoisingQueries, noise_boxes
from dino_detr.hub.conversion import convert_state_dict, load_reference_checkpoint
from dino_detr.matching import assign
from dino_detr.targets import Targets
from dino_detr.training import build_optimizer

FAMILIES = [
    "idea_r50_4scale", "idea_swin_4scale", "detrex_r50_4scale", "detrex_r50_5scale", "detrex_swin_4scale",
    "detrex_convnext_4scale", "detrex_vitdet",
]  # fmt: skip


class Golden:
    """A family's folder: its files read, its model made, the bars that its noise sets."""

    def __init__(self, folder, with_config):
        self.folder = folder
        self.inputs, self.eval, self.train = (
            load_file(folder / f"{n}.safetensors") for n in ("inputs", "eval", "train")
        )
        self.facts, self.reference = (json.loads((folder / f"{n}.json").read_text()) for n in ("train", "config"))
        self.noise = json.loads((folder / "noise.json").read_text())["noise_f32_vs_f64"]
        config = folder / "config.json" if with_config else None
        self.model = load_reference_checkpoint(folder / "state_dict.safetensors", config)
        self.is_official = "IDEA" in self.reference["family"]

    def bar(self, what):
        """Ten times the difference of float32 from float64, of the largest of the modes."""
        return 10 * max(value for name, value in self.noise.items() if name.split("/")[-1] == what)

    def labels(self):
        return [
            {
                "class_labels": self.inputs[f"target/{i}/labels"].long(),
                "boxes": self.inputs[f"target/{i}/boxes_cxcywh_norm"],
            }
            for i in (0, 1)
        ]

    def queries(self):
        meta = self.facts["dn_meta"]
        groups = meta.get("dn_num", meta.get("num_dn_group"))
        return DenoisingQueries(self.train["dn/labels_padded"].long(), self.train["dn/boxes_padded"], groups)

    def mask(self):
        return (self.inputs["pair/padding_mask"] == 0).long()

    def run_train(self):
        self.model.zero_grad(set_to_none=True)
        return self.model.train()(
            self.inputs["pair/pixel_values"], self.mask(), labels=self.labels(), denoising_queries=self.queries()
        )


@pytest.fixture(
    scope="module", params=[(f, c) for f in FAMILIES for c in (False, True)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def golden(request):
    """With a configuration and without: shapes and the code they are of tell the same."""
    family, with_config = request.param
    folder = ZOO / family if ZOO.is_dir() else CORE / family
    if not folder.is_dir():
        pytest.skip(f"the golden set {family} is not here")
    return Golden(folder, with_config)


def close(ours, expected, bar, what=""):
    difference = (ours - expected).abs().max().item()
    assert difference <= bar, f"{what}: {difference:.1e} > {bar:.1e}"


def regimes(golden):
    """The original's own: detrex takes padding for image in evaluation, the authors' code does not."""
    first = golden.inputs["pair/pixel_values"][:1, :, : golden.inputs["size_hw/0"][0], : golden.inputs["size_hw/0"][1]]
    yield "single", first, None
    yield "pair", golden.inputs["pair/pixel_values"], golden.mask() if golden.is_official else None
    if not golden.is_official:
        yield "pair_masked", golden.inputs["pair/pixel_values"], golden.mask()


@torch.no_grad()
def test_evaluation(golden):
    seen = {}
    model = golden.model.eval()
    handles = [
        model.model.backbone.register_forward_hook(lambda module, args, output: seen.update(backbone=output)),
        model.model.neck.register_forward_hook(lambda module, args, output: seen.update(neck=output)),
        model.model.decoder.register_forward_hook(lambda module, args, output: seen.update(decoder=output)),
    ]
    for mode, pixels, mask in regimes(golden):
        outputs = model(pixels, mask)
        expected = {
            name.removeprefix(f"{mode}/"): value for name, value in golden.eval.items() if name.startswith(f"{mode}/")
        }
        maps = [name for name in sorted(expected) if name.startswith("backbone/")]
        if "backbone/vit_last_feat" in maps:
            maps = ["backbone/vit_last_feat"]
        for name, ours in zip(maps, seen["backbone"]):
            close(ours, expected[name], golden.bar("backbone"), f"{mode} {name}")
        for level, ours in enumerate(seen["neck"]):
            if f"neck/{level}" in expected:
                close(ours, expected[f"neck/{level}"], golden.bar("neck"), f"{mode} neck {level}")
        valid = expected["encoder/padding_mask"] == 0
        memory, theirs = outputs.encoder_last_hidden_state[valid], expected["encoder/memory"][valid]
        close(memory, theirs, golden.bar("encoder"), f"{mode} memory")
        for layer, (hidden, starts) in enumerate(zip(*seen["decoder"])):
            logits, boxes = model._predict(layer, hidden, starts)
            close(logits, expected["out/logits"][layer], golden.bar("out"), f"{mode} logits {layer}")
            close(boxes, expected["out/boxes"][layer], golden.bar("out"), f"{mode} boxes {layer}")
        if mode != "pair_masked":
            _check_detections(golden, outputs, expected, mode)
    for handle in handles:
        handle.remove()


def _check_detections(golden, outputs, expected, mode):
    """The originals' best, in pixels of the image as it was; they differ on what lies beyond its border."""
    for i in range(len(outputs.logits)):
        height, width = golden.inputs[f"orig_size_hw/{i}"].tolist()
        boxes, scores = expected[f"det/{i}/boxes_xyxy_abs"], expected[f"det/{i}/scores"]
        if len(outputs.logits) == 2 and not golden.is_official:
            continue  # boxes of an image whose padding is taken for image: ours are of the padded image
        (ours,) = DinoDetrImageProcessor().post_process_object_detection(
            type(outputs)(logits=outputs.logits[i : i + 1], pred_boxes=outputs.pred_boxes[i : i + 1]),
            threshold=0.0, target_sizes=[(height, width)], top_k=40,
        )  # fmt: skip
        limit = torch.tensor([width, height, width, height])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        close(ours["scores"], scores[kept], golden.bar("out"), f"{mode} scores {i}")
        close(ours["boxes"], boxes[kept], golden.bar("det"), f"{mode} boxes {i}")
        assert ours["labels"].tolist() == expected[f"det/{i}/classes"][kept].tolist()


def test_training(golden):
    """Outputs, denoising, losses, matches, the gradient's norm and its parts, with the original's noise."""
    outputs = golden.run_train()
    layers = golden.model.config.decoder_layers
    close(outputs.auxiliary_logits[:layers], golden.train["out/logits"], golden.bar("out"), "logits")
    close(outputs.auxiliary_boxes[:layers], golden.train["out/boxes"], golden.bar("out"), "boxes")
    close(outputs.denoising_logits, golden.train["out_dn/logits"], golden.bar("out_dn"), "denoising logits")
    close(outputs.denoising_boxes, golden.train["out_dn/boxes"], golden.bar("out_dn"), "denoising boxes")
    renamed = {
        name.replace("loss_ce", "loss_class").replace("_interm", "_enc"): value
        for name, value in golden.facts["losses_raw"].items()
    }
    assert set(outputs.loss_dict) <= set(renamed)
    for name, value in outputs.loss_dict.items():
        assert value.item() == pytest.approx(renamed[name], abs=10 * golden.noise["losses_raw abs"]), name
    total = golden.facts["total_loss"]
    assert outputs.loss.item() == pytest.approx(total, abs=max(1e-5, 10 * golden.noise["total_loss abs"]))
    _check_matches(golden, outputs)

    outputs.loss.backward()
    trainable = [parameter for parameter in golden.model.parameters() if parameter.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trainable, 1e9).item()
    assert norm == pytest.approx(golden.facts["grad_norm"], rel=max(1e-6, 10 * golden.noise["grad_norm rel"]))
    in_files = names_of_parameters(golden.model)
    expected = {name.removeprefix("grad/"): value for name, value in golden.train.items() if name.startswith("grad/")}
    compared = 0
    for name, value in convert_state_dict(expected, golden.model.config).items():
        if name in in_files and in_files[name].grad is not None:
            bar = 10 * golden.noise["grad rel to that tensor max"] * value.abs().max().item()
            close(in_files[name].grad, value, bar, name)
            compared += 1
    assert compared >= len(expected)


def _check_matches(golden, outputs):
    targets = Targets.from_labels(golden.labels(), 2, torch.device("cpu"))
    matched = assign(outputs.auxiliary_logits, outputs.auxiliary_boxes, targets, golden.model.config)
    starts, layers = targets.offsets(), golden.model.config.decoder_layers
    names = {f"aux_{layer}": layer for layer in range(layers - 1)} | {
        "last": layers - 1,
        "enc": layers,
        "interm": layers,
    }
    for name, indices in golden.facts["matcher_indices"].items():
        layer = names[name]
        for image, (queries, boxes) in enumerate(indices):
            here = matched.image == image
            ours = zip(matched.query[layer, here].tolist(), (matched.target[layer, here] - starts[image]).tolist())
            assert sorted(ours) == sorted(zip(queries, boxes)), (name, image)


def test_noise(golden):
    """The noise formula on the original's own draws."""
    meta = golden.facts["dn_meta"]
    groups = meta.get("dn_num", meta.get("num_dn_group"))
    boxes = torch.cat([label["boxes"] for label in golden.labels()]).repeat(2 * groups, 1)
    half_group = torch.arange(len(boxes)) // (len(boxes) // (2 * groups))
    magnitude = golden.train["dn/rand_box_part"] + (half_group % 2)[:, None]
    noise = magnitude * (golden.train["dn/rand_box_sign01"] * 2 - 1) * golden.model.config.box_noise_scale
    close(noise_boxes(boxes, noise), golden.train["dn/noised_boxes_flat"], 2e-6)


def test_optimiser(golden):
    """Every parameter in the group that the original's recipe has it in; what that freezes is frozen."""
    in_files = {id(parameter): name for name, parameter in names_of_parameters(golden.model).items()}
    ours = {
        in_files[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in build_optimizer(golden.model).param_groups
        for parameter in group["params"]
    }
    expected = {}
    for group in golden.reference["optimizer"]["groups"]:
        tensors = {name: torch.empty(24, 1) for name in group["parameters"]}
        for name in convert_state_dict(tensors, golden.model.config):
            if name in in_files.values():
                expected[name] = (pytest.approx(group["lr"]), group["weight_decay"])
    unused = {name for name in expected if name.endswith(("mask_token", ".layernorm.weight", ".layernorm.bias"))}
    assert ours == {name: settings for name, settings in expected.items() if name not in unused or name in ours}


def test_reload(golden, tmp_path):
    pixels = golden.inputs["pair/pixel_values"]
    golden.model.save_pretrained(tmp_path)
    reloaded = DinoDetrForObjectDetection.from_pretrained(tmp_path)
    with torch.no_grad():
        ours, theirs = golden.model.eval()(pixels, golden.mask()), reloaded.eval()(pixels, golden.mask())
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.pred_boxes, theirs.pred_boxes)
    before = {name for name, parameter in golden.model.named_parameters() if parameter.requires_grad}
    assert before == {name for name, parameter in reloaded.named_parameters() if parameter.requires_grad}
