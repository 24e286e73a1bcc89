"""Augmentation moves boxes as it moves pixels."""

import numpy as np
import pytest
import torch
from helpers.image_folders import PHOTOGRAPHS
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import pil_to_tensor

from dino_detr.data.augmentation import Draws, build_augmentation, scale_crop_scale
from dino_detr.data.decoding import decode_rgb

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


@pytest.mark.parametrize(
    ("name", "sizes", "longest"),
    [("reference", SIZES, LONGEST), ("large_scale_jitter", [400], 400), ("finetune", [320, 480], 800)],
)
def test_boxes_follow_the_pixels(name, sizes, longest):
    """The box, in fractions of pixels, holds all that is bright and nothing else; off-centre, so flips show."""
    augmentation = build_augmentation(name, sizes, longest, photometric_distort=False)
    flipped = cut = gone = 0
    for seed in range(60):
        image, box = draw(augmentation, seed, box=(50, 40, 250, 200))
        ink = image[0] > 127  # what is filled around an image is darker
        if not ink.any():
            gone += 1
            assert (box[2:] - box[:2]).min() < 1
            continue
        ys, xs = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
        painted = torch.stack([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]).float()
        assert (painted - box).abs().max() < 1.3
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
        (1, 3000, [800], 1333, (16, 1333)),  # 0 there: a side is a patch at least
    ],
)
def test_sizes_round_as_detectron2s(height, width, sizes, longest, expected):
    """Expected sizes by detectron2's ResizeShortestEdge.get_output_shape."""
    image, _ = draw(build_augmentation("none", sizes, longest), seed=0, height=height, width=width, box=(0, 0, 1, 1))
    assert tuple(image.shape[1:]) == expected


@pytest.mark.parametrize(
    ("height", "width", "plain", "cropped"), [(480, 640, 579_077, 508_889), (427, 640, 627_364, 503_384)]
)
def test_mean_sizes_are_the_references(height, width, plain, cropped):
    """Of 300 draws of the reference the mean number of pixels was measured, without a crop and with one."""
    pixels, crops = {1: [], 3: []}, []
    generator = torch.Generator().manual_seed(0)
    for draws in torch.rand(20_000, 7, generator=generator).tolist():
        steps, size = scale_crop_scale(height, width, Draws(*draws), SIZES, LONGEST)
        pixels[len(steps)].append(float(size[0] * size[1]))
        if len(steps) == 3:
            crops.append((steps[1][1]["height"], steps[1][1]["width"]))
            assert min(steps[0][1]["size"]) in (400, 500, 600)
    for measured, ours in ((plain, torch.tensor(pixels[1])), (cropped, torch.tensor(pixels[3]))):
        assert abs(ours.mean() - measured) < 2.5 * ours.std() / 300**0.5
        assert len(ours) == pytest.approx(10_000, rel=0.03)
    crops = torch.tensor(crops)
    assert crops.amin(0).tolist() == [384, 384]
    assert crops.amax(0).tolist() == [600, 600]


@pytest.mark.parametrize(
    ("name", "sizes", "longest", "options"),
    [
        ("reference", [160, 200, 240], 320, {}),
        ("reference", [160, 200, 240], 320, {"zoom_out": True, "photometric_distort": True}),
        ("large_scale_jitter", [224], 300, {}),
        ("reference", [160, 200, 240], 320, {"iou_crop": True}),
        ("finetune", [160, 200, 240], 320, {}),
        ("none", [160, 200, 240], 270, {}),
    ],
)
def test_a_size_drawn_alone_is_that_of_the_image(name, sizes, longest, options):
    augmentation = build_augmentation(name, sizes, longest, **options)
    drawn = set()
    for seed in range(20):
        height, width = [(427, 640), (130, 97)][seed % 2]
        image, _ = draw(augmentation, seed, height, width, box=(5, 5, 90, 90))
        torch.manual_seed(seed)
        assert augmentation.draw_size(height, width) == tuple(image.shape[1:])
        drawn.add(tuple(image.shape[1:]))
    assert len(drawn) > 4 or drawn == {(224, 224)}


def test_large_scale_jitter_scales_by_a_tenth_to_two():
    """By the width of a box in the middle, where it is not cut: of what fits the square."""
    augmentation = build_augmentation("large_scale_jitter", [640], 640)
    scales = []
    for seed in range(150):
        image, box = draw(augmentation, seed, box=(310, 190, 330, 210))
        assert image.shape == (3, 640, 640)
        if box[0] > 0 and box[2] < 640 and box[1] > 0 and box[3] < 640:
            scales.append(float(box[2] - box[0]) / 20)
    assert 0.09 < min(scales) < 0.2
    assert 1.8 < max(scales) < 2.01
    grey = torch.tensor([124, 116, 104], dtype=torch.uint8)
    image, _ = draw(augmentation, 1, height=64, width=640)  # some rows are no image at any scale
    assert (image == grey[:, None, None]).all(0).all(1).any()


def test_each_part_can_be_turned_on_and_off():
    """What a part does to an image whose left half is white, seen over 40 seeds."""

    def seen(name, **options):
        augmentation = build_augmentation(name, [100], 500, **options)
        effects = set()
        for seed in range(40):
            image, box = draw(augmentation, seed, height=100, width=150, box=(0, 0, 75, 100))
            red, green, blue = image.int()
            colours = set((red * 65536 + green * 256 + blue).unique().tolist())
            if 0x7C7468 in colours:
                effects.add("zoom_out")
            elif not colours & {0x000000, 0xFFFFFF}:
                effects.add("photometric_distort")
            elif abs(box[2] - box[0] - 75) > 1:
                effects.add("iou_crop")
            elif box[0] > 1:
                effects.add("flip")
        return effects

    assert seen("none") == set()
    assert seen("none", zoom_out=True) == {"zoom_out"}
    assert seen("none", photometric_distort=True) == {"photometric_distort"}
    assert seen("none", horizontal_flip=1.0) == {"flip"}
    assert seen("none", iou_crop=True) == {"iou_crop"}
    assert {"zoom_out", "photometric_distort", "iou_crop"} <= seen("finetune")
    off = {"zoom_out": False, "photometric_distort": False, "iou_crop": False}
    assert seen("finetune", **off) == {"flip"}
    assert seen("finetune", **off, horizontal_flip=0.0) == set()


def test_large_photographs_are_shrunk_before_they_are_zoomed_out():
    """At 4 times its side this one would take 400 MB."""
    augmentation = build_augmentation("finetune", [320], 480)
    largest = []
    parts = augmentation.parts
    augmentation.parts = [*parts[:2], lambda image, boxes: largest.append(max(image.shape)) or (image, boxes)]
    for seed in range(8):
        draw(augmentation, seed, height=2000, width=3000, box=(100, 100, 2000, 1900))
    assert 480 < max(largest) <= 4 * 480


def test_a_sliver_passes():
    image, _ = draw(build_augmentation("finetune", [32], 640), seed=0, height=2, width=300, box=(0, 0, 200, 2))
    assert max(image.shape) <= 640


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
    with pytest.raises(ValueError, match=r"'mosaic'.*reference, large_scale_jitter, finetune, none"):
        build_augmentation("mosaic", SIZES, LONGEST)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"horizontal_flip=50.* between 0 and 1"):
        build_augmentation("finetune", SIZES, LONGEST, horizontal_flip=50)
    with pytest.raises(ValueError, match=r"large_scale_jitter has one size.*image_sizes: 800"):
        build_augmentation("large_scale_jitter", SIZES, LONGEST)


@pytest.mark.parametrize("sizes", [SIZES, [160, 240, 320]])
def test_samples_have_pillows_pixels(sizes):
    """
    Decoded, flipped, cropped and resized, enlarged or reduced: real photographs, the same draws made of Pillow images.

    Bilinear, on 8-bit values, as the reference (detectron2's transforms call Pillow).
    """
    augmentation = build_augmentation("reference", sizes, 1333)
    means, greatest = [], 0
    for seed in range(16):
        file = {"path": str(PHOTOGRAPHS[seed % 2]), "bytes": None}
        results = []
        for image in (tv_tensors.Image(decode_rgb(file)), Image.open(file["path"])):
            torch.manual_seed(seed)
            boxes = tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(427, 640))
            results.append(augmentation(image, boxes)[0])
        fast, plain = results[0].as_subclass(torch.Tensor).int(), pil_to_tensor(results[1]).int()
        difference = (fast - plain).abs()
        means.append(difference.float().mean().item())
        greatest = max(greatest, int(difference.max()))
    print(f"mean difference from Pillow's {np.mean(means):.4f} levels, worst image {max(means):.4f}, pixel {greatest}")
    assert max(means) <= 0.1  # of 255; 1 is what is asked for
    assert greatest <= 4
