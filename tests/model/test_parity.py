"""The model is the reference, number by number. Cases: A two sizes, B odd sizes and an empty image, C no boxes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dino_detr import DinoDetrImageProcessor
from dino_detr.backbone import _interpolate_positions_antialiased
from dino_detr.denoising import DenoisingQueries, draw_denoising_queries, noise_boxes
from dino_detr.hub.conversion import convert_state_dict, load_reference_checkpoint
from dino_detr.levels import sine_position_embedding
from dino_detr.matching import assign
from dino_detr.pretrained_backbone import _change_patch_size
from dino_detr.query_selection import token_proposals
from dino_detr.targets import Targets
from dino_detr.training import build_optimizer

# ten times the noise floor in the golden set's README
TRAIN = {"A": 5.5e-5, "B": 5.0e-5, "C": 6.1e-5}
EVAL = {"A": 3.1e-4, "B": 1.6e-4, "C": 2.3e-4}
LOSS = {"A": 5.9e-6, "B": 1.6e-5, "C": 3.2e-5}
GRADIENT = {"A": 3.6e-5, "B": 7.1e-5, "C": 9.8e-4}
PARAMETERS = {"A": 7.2e-6, "B": 7.4e-6}
TRAJECTORY = {"A": 8.0e-5, "B": 8.9e-5}


def load_model(folder):
    return load_reference_checkpoint(folder / "state_dict.safetensors", folder / "config.json")


@pytest.fixture(scope="module")
def model(core_golden):
    return load_model(core_golden)


def load_batch(folder, case):
    batch = load_file(folder / f"batch_{case}.safetensors")
    labels = [
        {"class_labels": batch[f"target/{i}/labels"], "boxes": batch[f"target/{i}/boxes_cxcywh_norm"]} for i in (0, 1)
    ]
    return batch, labels


def load_train(folder, case):
    """(tensors, JSON, the step's denoising queries)."""
    tensors = load_file(folder / f"train_{case}.safetensors")
    facts = json.loads((folder / f"train_{case}.json").read_text())
    queries = None
    if facts["dn_meta"]:
        queries = DenoisingQueries(tensors["dn/labels_padded"], tensors["dn/boxes_padded"], facts["dn_meta"]["dn_num"])
    return tensors, facts, queries


def run_train(model, folder, case):
    batch, labels = load_batch(folder, case)
    queries = load_train(folder, case)[2]
    return model.train()(batch["pixel_values"], batch["pixel_mask"], labels=labels, denoising_queries=queries)


def regimes(batch):
    """(name, pixels, mask, images) of the reference's ways to evaluate."""
    yield "masked", batch["pixel_values"], batch["pixel_mask"], (0, 1)
    for i in (0, 1):
        height, width = batch[f"size_hw/{i}"].tolist()
        yield f"single{i}", batch["pixel_values"][i : i + 1, :, :height, :width], None, (i,)


def close(actual, expected, tolerance, name=""):
    assert actual.shape == expected.shape, name
    torch.testing.assert_close(
        actual.double(), expected.double(), atol=tolerance, rtol=0, msg=lambda text: f"{name}: {text}"
    )


@pytest.mark.parametrize("case", "ABC")
def test_evaluation(model, core_golden, case):
    """Outputs and detections in pixels, padded with a mask and each image alone; with labels, every layer's."""
    batch, labels = load_batch(core_golden, case)
    model.eval()
    for name, pixels, mask, images in regimes(batch):
        golden = load_file(core_golden / f"eval_{case}_{name}.safetensors")
        with torch.no_grad():
            outputs = model(pixels, mask)
            with_labels = model(pixels, mask, labels=[labels[i] for i in images])
        close(outputs.logits, golden["out/logits"][-1], EVAL[case], name)
        close(outputs.pred_boxes, golden["out/boxes"][-1], EVAL[case], name)
        close(with_labels.auxiliary_logits[:-1], golden["out/logits"], EVAL[case], name)
        close(with_labels.auxiliary_boxes[:-1], golden["out/boxes"], EVAL[case], name)
        if name == "masked":  # the reference never detects in this regime
            continue
        detections = DinoDetrImageProcessor().post_process_object_detection(
            outputs,
            threshold=0.0,
            target_sizes=[tuple(batch[f"orig_size_hw/{i}"].tolist()) for i in images],
            top_k=20,
        )
        for position, found in enumerate(detections):
            close(found["boxes"], golden[f"det/{position}/boxes_xyxy_abs"], EVAL[case], name)
            close(found["scores"], golden[f"det/{position}/scores"], EVAL[case], name)
            assert found["labels"].tolist() == golden[f"det/{position}/classes"].tolist()


@pytest.mark.parametrize("case", "ABC")
def test_training_outputs_and_losses(model, core_golden, case):
    golden, facts, queries = load_train(core_golden, case)
    outputs = run_train(model, core_golden, case)
    close(outputs.auxiliary_logits[:-1], golden["out/logits"], TRAIN[case])
    close(outputs.auxiliary_boxes[:-1], golden["out/boxes"], TRAIN[case])
    close(outputs.auxiliary_logits[-1], golden["two_stage/topk_logits"], TRAIN[case])
    close(outputs.auxiliary_boxes[-1], golden["two_stage/topk_boxes"], TRAIN[case])
    if queries is not None:
        close(outputs.denoising_logits, golden["out_dn/logits"], TRAIN[case])
        close(outputs.denoising_boxes, golden["out_dn/boxes"], TRAIN[case])
    assert set(outputs.loss_dict) == set(facts["losses_raw"])
    for name, value in facts["losses_raw"].items():
        assert outputs.loss_dict[name].item() == pytest.approx(value, abs=LOSS[case]), name
    assert outputs.loss.item() == pytest.approx(facts["total_weighted"], abs=10 * LOSS[case])


@pytest.mark.parametrize("case", "ABC")
def test_matching(model, core_golden, case):
    _, labels = load_batch(core_golden, case)
    golden, facts, _ = load_train(core_golden, case)
    logits = torch.cat([golden["out/logits"], golden["two_stage/topk_logits"][None]])
    boxes = torch.cat([golden["out/boxes"], golden["two_stage/topk_boxes"][None]])
    targets = Targets.from_labels(labels, 2, torch.device("cpu"))
    matched = assign(logits, boxes, targets, model.config)
    starts = targets.offsets()
    for layer, name in enumerate(["aux_0", "last", "enc"]):
        for image, (queries, indices) in enumerate(facts["matcher_indices"][name]):
            here = matched.image == image
            ours = zip(matched.query[layer, here].tolist(), (matched.target[layer, here] - starts[image]).tolist())
            assert sorted(ours) == sorted(zip(queries, indices)), (name, image)


@pytest.mark.parametrize("case", "AB")
def test_denoising_tensors(model, core_golden, case):
    """The noise formula on the reference's own draws, its slots, its attention mask."""
    golden, facts, queries = load_train(core_golden, case)
    _, labels = load_batch(core_golden, case)
    num_groups = facts["dn_meta"]["dn_num"]
    boxes = torch.cat([label["boxes"] for label in labels]).repeat(2 * num_groups, 1)
    half_group = torch.arange(len(boxes)) // (len(boxes) // (2 * num_groups))
    magnitude = golden["dn/rand_box_part"] + (half_group % 2)[:, None]
    noise = magnitude * (golden["dn/rand_box_sign01"] * 2 - 1) * model.config.box_noise_scale
    close(noise_boxes(boxes, noise), golden["dn/noised_boxes_flat"], 1e-6)
    assert torch.equal(queries.attention_mask(model.config.num_queries), golden["dn/attn_mask"] == 0)
    with torch.no_grad():
        _, starts = model.model._embed_denoising(queries)
    close(torch.logit(starts), golden["dn/input_query_bbox_unsig"], TRAIN[case])

    # what we draw ourselves has the same slots
    targets = Targets.from_labels(labels, 2, torch.device("cpu"))
    drawn = draw_denoising_queries(targets, model.config)
    assert drawn.num_groups == num_groups
    assert torch.equal(drawn.labels < 0, queries.labels < 0)


@pytest.mark.parametrize("case", "AB")
def test_ten_steps(core_golden, case):
    model = load_model(core_golden).train()
    batch, labels = load_batch(core_golden, case)
    queries = load_train(core_golden, case)[2]
    facts = json.loads((core_golden / f"steps_{case}.json").read_text())
    optimizer = build_optimizer(model, learning_rate=1e-4, weight_decay=1e-4, backbone_lr_factor=0.1)
    _assert_groups_are_the_reference_s(model, optimizer, facts["param_groups"])
    for step in facts["steps"]:
        outputs = model(batch["pixel_values"], batch["pixel_mask"], labels=labels, denoising_queries=queries)
        assert outputs.loss.item() == pytest.approx(step["total_loss"], abs=TRAJECTORY[case]), step["step"]
        optimizer.zero_grad()
        outputs.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        # rel: two ReLU kinks' worth, which one summation order crosses and another does not
        assert norm.item() == pytest.approx(step["grad_norm_before_clip"], rel=3e-5), step["step"]
        optimizer.step()


def _assert_groups_are_the_reference_s(model, optimizer, golden_groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    ours = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            ours[names[parameter]] = (group["lr"], group["weight_decay"])
    reference = {}
    for group in golden_groups:
        placeholders = {name: torch.zeros(3 if "in_proj" in name else 1) for name in group["params"]}
        for name in convert_state_dict(placeholders, model.config):
            reference[name] = (group["lr"], group["weight_decay"])
    assert ours == reference


@pytest.mark.parametrize("case", "AB")
def test_pixel_values(core_golden, case):
    batch, labels = load_batch(core_golden, case)
    annotations = []
    for i in (0, 1):
        corners = batch[f"target/{i}/boxes_xyxy_abs"].tolist()
        objects = [
            {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": label}
            for (x1, y1, x2, y2), label in zip(corners, labels[i]["class_labels"].tolist())
        ]
        annotations.append({"image_id": i, "annotations": objects})
    images = [batch["image_uint8/0"], batch["image_uint8/1"]]
    features = DinoDetrImageProcessor()(images, annotations=annotations, do_resize=False, return_tensors="pt")
    close(features["pixel_values"], batch["pixel_values"], 1e-6)
    assert torch.equal(features["pixel_mask"], batch["pixel_mask"].long())
    for i in (0, 1):
        close(features["labels"][i]["boxes"], labels[i]["boxes"], 1e-6)
        assert torch.equal(features["labels"][i]["class_labels"], labels[i]["class_labels"])


def test_patch_size_14_to_16(core_golden):
    """What timm does to a DINOv2 checkpoint of patch 14 and grid 37x37 that is loaded with patch 16."""
    from transformers import Dinov2Backbone, Dinov2Config

    golden = load_file(core_golden / "patch14to16.safetensors")
    config = Dinov2Config(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=14)
    backbone = Dinov2Backbone(config)
    with torch.no_grad():
        backbone.embeddings.patch_embeddings.projection.weight.copy_(golden["in/patch_embed.proj.weight"])
        backbone.embeddings.position_embeddings.copy_(golden["in/pos_embed"])
    resized = _change_patch_size(backbone, 16)
    close(resized.embeddings.patch_embeddings.projection.weight, golden["out/patch_embed.proj.weight"], 1e-5)
    close(resized.embeddings.position_embeddings, golden["out/pos_embed"], 1e-5)
    for name in (name for name in golden if name.startswith("dyn/")):
        rows, columns = map(int, name.removeprefix("dyn/").split("x"))
        positions = _interpolate_positions_antialiased(resized.embeddings, None, rows * 16, columns * 16)
        close(positions, golden[name], 1e-5, name)


# --- what only the full set can show -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", "ABC")
def test_gradients(full_golden, case):
    model = load_model(full_golden)
    run_train(model, full_golden, case).loss.backward()
    golden = convert_state_dict(load_file(full_golden / f"grads_{case}.safetensors"), model.config)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(golden) == set(trainable)
    for name, expected in golden.items():
        close(trainable[name].grad, expected, GRADIENT[case], name)
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trainable)


@pytest.mark.parametrize("case", "AB")
def test_parameters_after_three_steps(full_golden, case):
    model = load_model(full_golden)
    optimizer = build_optimizer(model, learning_rate=1e-4, weight_decay=1e-4, backbone_lr_factor=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        run_train(model, full_golden, case).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    golden = convert_state_dict(load_file(full_golden / f"params_after3_{case}.safetensors"), model.config)
    for name, parameter in model.named_parameters():
        if not name.startswith("model.backbone"):  # frozen, and named as this version of transformers likes
            close(parameter, golden[name], PARAMETERS[case], name)


@pytest.mark.parametrize("case", "ABC")
@pytest.mark.parametrize("mode", ["train", "masked", "single0", "single1"])
def test_intermediates(full_golden, case, mode):
    model = load_model(full_golden)
    batch, _ = load_batch(full_golden, case)
    seen = {}
    _watch(model.model, seen)
    if mode == "train":
        golden, tolerance = load_train(full_golden, case)[0], TRAIN[case]
        run_train(model, full_golden, case)
    else:
        golden, tolerance = load_file(full_golden / f"eval_{case}_{mode}.safetensors"), EVAL[case]
        pixels, mask = next((p, m) for name, p, m, _ in regimes(batch) if name == mode)
        with torch.no_grad():
            model.eval()(pixels, mask)
    _derive(model.model, seen, golden)
    compared = set()
    for name, expected in golden.items():
        if name in seen:
            close(seen[name], expected, tolerance, name)
            compared.add(name.split("/")[0])
    assert compared >= {"backbone", "pyramid", "neck", "mask", "pos", "encoder", "two_stage", "decoder"}
    unseen = {name for name in golden if name not in seen and name.split("/")[0] in compared}
    assert unseen == {"decoder/init_reference_out"}, unseen  # detrex's second name for init_reference


def _watch(model, seen):
    """Fill `seen` with what passes through the modules, under the golden names."""

    def keep(module, make):
        module.register_forward_hook(lambda module, args, output: seen.update(make(args, output)))

    levels = range(3, 3 + model.config.num_feature_levels)
    keep(model.backbone, lambda args, output: {"backbone/last": output[0]})
    keep(model.pyramid, lambda args, output: {f"pyramid/p{level}": m for level, m in zip(levels, output)})
    keep(model.neck, lambda args, output: {f"neck/p{level}": m for level, m in zip(levels, output)})
    keep(
        model.encoder,
        lambda args, output: {
            "encoder/input": args[0],
            "encoder/query_pos": args[1],
            "encoder/spatial_shapes": torch.tensor(args[2].spatial_shapes),
            "encoder/padding_mask": args[2].padding_mask,
            "encoder/valid_ratios": args[2].valid_ratios,
            "encoder/memory": output,
        },
    )
    keep(model.encoder.layers[0], lambda args, output: {"encoder/reference_points": args[2]})
    for index, layer in enumerate(model.encoder.layers):
        keep(layer, lambda args, output, index=index: {f"encoder/layer{index}": output})
    for index, layer in enumerate(model.decoder.layers):
        keep(layer, lambda args, output, index=index: {f"decoder/layer{index}_out": output})
    keep(model.query_selection.enc_output_norm, lambda args, output: {"two_stage/output_memory": output})
    keep(
        model.query_selection,
        lambda args, output: {
            "two_stage/output_proposals": token_proposals(args[1])[0],
            "two_stage/topk_logits": output[0],
            "two_stage/topk_boxes": output[1],
        },
    )
    keep(
        model.decoder,
        lambda args, output: {
            "decoder/input_query": args[0],
            "decoder/init_reference": args[1],
            "decoder/hidden_normed": output[0],
            "starts": output[1],
        },
    )


@torch.no_grad()
def _derive(model, seen, golden):
    """What we compute only where it is used, or keep in another form."""
    shapes = [tuple(shape) for shape in seen["encoder/spatial_shapes"].tolist()]
    sizes = [h * w for h, w in shapes]
    seen["encoder/level_start_index"] = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    masks = seen["encoder/padding_mask"].split(sizes, dim=1)
    for level, (mask, shape) in enumerate(zip(masks, shapes), start=3):
        mask = mask.unflatten(1, shape)
        seen[f"mask/p{level}"] = mask
        seen[f"pos/p{level}"] = sine_position_embedding(~mask, model.config.d_model).permute(0, 3, 1, 2)
    memory = seen["two_stage/output_memory"]
    seen["two_stage/enc_class_all"] = model.class_embed[-1](memory)
    seen["two_stage/enc_box_delta_all"] = model.bbox_embed[-1](memory)
    seen["two_stage/score_all"] = seen["two_stage/enc_class_all"].max(-1).values
    best = seen["two_stage/score_all"].topk(model.config.num_queries, dim=1)
    seen["two_stage/topk_score"], seen["two_stage/topk_index"] = best
    index = best.indices[..., None].expand(-1, -1, memory.shape[-1])
    seen["two_stage/topk_output_memory"] = memory.gather(1, index)
    # the reference refines once more after the last layer, which nothing uses
    last = model.config.decoder_layers - 1
    refined = model.bbox_embed[last](seen[f"decoder/layer{last}_out"]) + torch.logit(seen["starts"][last], eps=1e-3)
    seen["decoder/references"] = torch.cat([seen["starts"][1:], refined.sigmoid()[None]])
