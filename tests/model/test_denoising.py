"""Denoising queries: their budget, their slots, and that they disturb nothing."""

import pytest
import torch
from helpers.tiny import (
    draw_noise,
    random_images,
    random_labels,
    tiny_config,
    tiny_detector,
)
from torchvision.ops import box_convert

from dino_detr.denoising import DenoisingQueries, draw_denoising_queries
from dino_detr.targets import Targets


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
        replayed = model(images, labels=labels, denoising_queries=draw_noise(labels, seed=seed))
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
    noise = draw_noise(labels)
    first, second = (model(images, labels=labels, denoising_queries=noise).loss for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(1)
    third, fourth = (model(images, labels=labels).loss for _ in range(2))
    assert not torch.equal(third, fourth)


def test_a_thousand_boxes_stay_within_the_denoising_budget():
    """A random subset is denoised, against the boxes it was made from, normalised by how many it is."""
    budget, images, labels = 10, random_images(2, 3, 64, 64), random_labels(1000, 3)
    subsets = [draw_noise(labels, seed, num_denoising=budget).box_index[0].sort().values for seed in range(2)]
    assert not torch.equal(*subsets)
    assert all(len(subset.unique()) == budget and subset.min() >= 0 and subset.max() < 1000 for subset in subsets)

    noise = draw_noise(labels, num_denoising=budget, label_noise_ratio=0.0, box_noise_scale=0.0)
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
        noise = draw_noise(random_labels(most, 1))
        assert noise.labels.shape[1] == 2 * noise.num_groups * min(most, 10) <= 20
    assert draw_noise(random_labels(0, 0)) is None and draw_noise(random_labels(3), num_denoising=0) is None


def test_misshapen_denoising_queries_are_refused():
    with pytest.raises(ValueError, match="num_groups"):
        DenoisingQueries(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, 4), num_groups=2)
    for num_groups in (2, 0):
        with pytest.raises(ValueError, match=f"2 slots are not 2 . num_groups={num_groups} half-groups"):
            DenoisingQueries(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, 4), num_groups)
    with pytest.raises(ValueError, match="boxes"):
        DenoisingQueries(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 7, 4), num_groups=2)


IMAGES = random_images(2, 3, 64, 96)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_denoising_groups_are_hidden_from_one_another(implementation):
    """The matching queries' predictions do not depend on denoising, whichever way attention is computed."""
    model = tiny_detector()
    model.set_attn_implementation(implementation)
    labels = random_labels(3, 2)
    alone = model(IMAGES, labels=labels)
    torch.manual_seed(0)
    beside = model.train()(IMAGES, labels=labels)
    assert beside.denoising_logits is not None
    torch.testing.assert_close(beside.logits, alone.logits, atol=1e-4, rtol=1e-4)


def test_groups_see_themselves_and_the_matching_queries_which_see_only_one_another():
    noise = DenoisingQueries(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, 4), num_groups=2)
    expected = [
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]
    assert noise.attention_mask(2).int().tolist() == expected


def test_positive_slots_are_nearer_to_their_boxes_than_negative_ones():
    """Each side moves by less than the scale, in half box sizes, and by one to two times the scale; both ways."""
    labels = [
        {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.4, 0.6, 0.2, 0.4]])}
    ]
    noise = draw_noise(labels, num_denoising=200, box_noise_scale=0.3, label_noise_ratio=0.0)
    sides = box_convert(noise.boxes, "cxcywh", "xyxy").view(100, 2, 2, 4)  # groups, positive or negative, boxes
    moved = (sides - box_convert(labels[0]["boxes"], "cxcywh", "xyxy")) / (labels[0]["boxes"][:, [2, 3, 2, 3]] / 2)
    positive, negative = moved[:, 0], moved[:, 1]
    assert 0.29 < positive.abs().max() < 0.3 and positive.abs().min() < 0.01
    assert 0.3 <= negative.abs().min() < 0.31 and 0.59 < negative.abs().max() < 0.6
    assert all(0.4 < (side > 0).float().mean() < 0.6 for side in (positive, negative))
    assert torch.equal(noise.labels.view(200, 2), torch.tensor([0, 1]).expand(200, 2))


def test_noised_boxes_stay_within_the_image():
    labels = [{"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.05, 0.95, 0.1, 0.1]])}]
    sides = box_convert(draw_noise(labels, num_denoising=100).boxes, "cxcywh", "xyxy")
    assert sides.min() > -1e-6 and sides.max() < 1 + 1e-6 and (sides < 1e-6).any() and (sides > 1 - 1e-6).any()


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_half_the_ratio_of_labels_is_redrawn_from_all_classes(ratio):
    labels = [{"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
    counts = draw_noise(labels, num_denoising=3000, label_noise_ratio=ratio).labels.flatten().bincount(minlength=3)
    assert len(counts) == 3 and counts.sum() == 6000
    assert all(count / 6000 == pytest.approx(ratio / 2 / 3, abs=0.02) for count in counts[1:])


def test_an_images_noise_is_its_seeds_whichever_batch_it_is_in():
    labels = random_labels(3, 2, 1)
    together = draw_seeded(labels, [7, 8, 9])
    apart = [draw_seeded([label], [seed]) for label, seed in zip(labels, (7, 8, 9))]
    for index, alone in enumerate(apart):
        assert torch.equal(together.labels[index], alone.labels[0]) and torch.equal(
            together.boxes[index], alone.boxes[0]
        )
    assert not torch.equal(draw_seeded(labels, [7, 8, 1]).boxes[2], together.boxes[2])
    assert together.num_groups == 2 and together.labels.shape == (3, 2 * 2 * 4)  # as if one had four boxes
    assert (together.labels >= 0).sum(1).tolist() == [12, 8, 4]


def draw_seeded(labels, seeds) -> DenoisingQueries:
    targets = Targets.from_labels(labels, len(labels), torch.device("cpu"))
    return draw_denoising_queries(targets, tiny_config(), max_boxes=4, seeds=seeds)
