"""Augmentation moves boxes as it moves pixels."""

import pytest
import torch
from torchvision import tv_tensors

from dino_detr.data.augmentation import build_augmentation

SIZES, LONGEST = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800], 1333


def draw(augmentation, seed, height=427, width=640, box=(200, 150, 260, 240)):
    """Augment a black image whose box is painted white: image, box [4]."""
    x1, y1, x2, y2 = box
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    boxes = tv_tensors.BoundingBoxes([box], format="XYXY", canvas_size=(height, width), dtype=torch.float32)
    torch.manual_seed(seed)
    image, boxes = augmentation(tv_tensors.Image(image), boxes)
    return image, boxes[0]


def test_boxes_follow_the_pixels():
    """The box, in fractions of pixels, holds all that is bright and nothing else; off-centre, so flips show."""
    augmentation = build_augmentation("reference", SIZES, LONGEST)
    flipped = cut = gone = 0
    for seed in range(60):
        image, box = draw(augmentation, seed, box=(50, 40, 250, 200))
        ink = image[0] > 127
        if not ink.any():
            gone += 1
            assert (box[2:] - box[:2]).min() < 1
            continue
        ys, xs = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
        painted = torch.stack([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]).float()
        assert (painted - box).abs().max() < 1.0
        height, width = ink.shape
        flipped += bool(box[0] > width / 2)
        cut += bool(box.min() <= 0 or box[2] >= width or box[3] >= height)
    assert flipped > 5
    assert cut > 3
    assert gone < 30


def test_a_crop_can_leave_a_box_empty():
    augmentation = build_augmentation("reference", SIZES, LONGEST)
    extents = torch.stack(
        [box[2:] - box[:2] for _, box in (draw(augmentation, seed, box=(0, 0, 8, 8)) for seed in range(40))]
    )
    assert (extents <= 1e-5).any(1).any()
    assert (extents > 1e-5).all(1).any()


@pytest.mark.parametrize(
    ("height", "width", "sizes", "longest", "expected"),
    [
        (480, 640, [800], 1333, (800, 1067)),
        (640, 427, [600], 1333, (899, 600)),
        (480, 640, [800], 1000, (750, 1000)),
        (100, 1000, [800], 1333, (133, 1333)),
        (1, 3000, [800], 1333, (1, 1333)),  # 0 there
    ],
)
def test_sizes_round_as_detectron2s(height, width, sizes, longest, expected):
    """Expected sizes by detectron2's ResizeShortestEdge.get_output_shape."""
    image, _ = draw(build_augmentation("none", sizes, longest), seed=0, height=height, width=width, box=(0, 0, 1, 1))
    assert tuple(image.shape[1:]) == expected


def test_mean_size_is_the_references():
    """For a 427x640 photograph the reference's draws (300 of them, measured) have 627,364 pixels on average without a
    crop and 503,384 with one, each half of the time."""
    augmentation = build_augmentation("reference", SIZES, LONGEST)
    pixels = []
    for seed in range(600):
        torch.manual_seed(seed)
        blank = tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(427, 640))
        pixels.append(float(torch.tensor(augmentation(blank).canvas_size).prod()))
    mean = sum(pixels) / len(pixels)
    assert mean == pytest.approx((627_364 + 503_384) / 2, rel=0.04)


@pytest.mark.parametrize("name", ["reference", "none"])
def test_shortest_edges_come_from_the_list(name):
    """Also where the images are small, and the crop's pixel numbers must shrink with them."""
    augmentation = build_augmentation(name, [96, 128, 160], 240)
    seen = set()
    for seed in range(60):
        image, _ = draw(augmentation, seed, height=192, width=256)
        assert max(image.shape[1:]) <= 240
        seen.add(min(image.shape[1:]))
    assert {96, 128, 160} <= seen
    assert min(seen) >= 90  # less than 96 only where the longest edge binds


def test_the_same_seed_draws_the_same():
    augmentation = build_augmentation("reference", SIZES, LONGEST)
    for seed in range(5):
        (first, first_box), (second, second_box) = draw(augmentation, seed), draw(augmentation, seed)
        assert torch.equal(first, second)
        assert torch.equal(first_box, second_box)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'mosaic'.*reference, none"):
        build_augmentation("mosaic", SIZES, LONGEST)
