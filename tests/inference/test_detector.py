"""`Detector` finds what transformers' pipeline finds, in whatever form an image comes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_hub import REPOSITORY, Repository
from helpers.launching import ENVIRONMENT, served
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import pipeline

import dino_detr
from dino_detr import Detector
from dino_detr.data import decoding


@pytest.fixture(scope="module")
def detector(checkpoint) -> Detector:
    return Detector(checkpoint, "cpu")


def same(one, other) -> bool:
    """But for the rounding of another batch."""
    tolerance = {"rtol": 0, "atol": 1e-3}
    return all(torch.allclose(one[name], other[name], **tolerance) for name in ("boxes", "scores", "labels"))


def test_it_finds_what_a_pipeline_finds(detector, checkpoint, photos):
    files = sorted(photos.iterdir())
    images = [ImageOps.exif_transpose(Image.open(file)) for file in files]
    expected = [pipeline("object-detection", model=str(checkpoint))(image, threshold=0.1) for image in images]
    for found, theirs in zip(detector(photos, threshold=0.1), expected):
        assert len(found) == len(theirs) > 3
        assert found.names == [entry["label"] for entry in theirs]
        assert found.scores.tolist() == pytest.approx([entry["score"] for entry in theirs], abs=1e-5)
        assert found.boxes.int().tolist() == [list(entry["box"].values()) for entry in theirs]  # whole pixels


def test_an_image_is_the_same_in_whatever_form_it_comes(detector, photos):
    upright = ImageOps.exif_transpose(Image.open(photos / "1.png"))
    with served(photos) as address:
        (of_url,) = detector(f"{address}/1.png", threshold=0)
    (expected,) = detector(photos / "1.png", threshold=0)
    assert expected.size == (96, 64) and len(expected) == 60  # queries, classes
    several = [photos / "1.png", str(photos / "1.png"), Image.open(photos / "1.png"), np.array(upright),
               pil_to_tensor(upright)]  # fmt: skip
    for alone in several:
        (found,) = detector(alone, threshold=0)
        assert same(found, expected)
    for found in [of_url, *detector(several, threshold=0), *detector(iter(several), threshold=0)]:
        assert same(found, expected)
    for many in (photos, str(photos / "*.png"), [photos]):
        found = detector(many, threshold=0)
        assert [Path(each.source.name).name for each in found] == [f"{number}.png" for number in range(5)]
        assert same(found[1], expected)
    pixels = np.stack([np.array(upright)] * 2)
    assert all(same(found, expected) for found in detector(pixels, threshold=0))


def test_batches_are_of_one_size_and_images_are_decoded_once(detector, photos, monkeypatch):
    shapes, read = [], []
    forward, decode = detector.model.forward, decoding.decode_rgb
    monkeypatch.setattr(detector.model, "forward", lambda pixels: shapes.append((*pixels.shape,)) or forward(pixels))
    monkeypatch.setattr(
        "dino_detr.data.image_sources.decode_rgb", lambda file: read.append(file["path"]) or decode(file)
    )
    together = detector(photos, threshold=0, batch_size=3)
    assert sorted(shapes) == [(1, 3, 48, 96), (1, 3, 64, 64), (1, 3, 64, 96), (1, 3, 64, 96), (1, 3, 96, 64)]
    shapes.clear()
    detector(photos, threshold=0)
    assert sorted(shapes) == [(1, 3, 48, 96), (1, 3, 64, 64), (1, 3, 96, 64), (2, 3, 64, 96)]
    assert len(read) == 10
    for found in together:
        (alone,) = detector(found.source.name, threshold=0)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-6, rtol=0)


def test_a_stream_reads_a_batch_ahead_at_most(detector, photos):
    taken = []

    def camera():
        for number in range(100):
            taken.append(number)
            yield Image.open(photos / "0.png")

    found = next(detector.stream(camera(), batch_size=4))
    assert taken == [0, 1, 2, 3] and found.image.shape == (3, 64, 96)


def test_thresholds_of_classes(detector, photos):
    (every,) = detector(photos / "0.png", threshold=0)
    (found,) = detector(photos / "0.png", threshold={"cat": 0.3, "emu": 1})
    expected = [one for one in every if one.score > {"cat": 0.3, "dog": 0.5, "emu": 1}[one.name]]
    assert list(found) == expected and {"cat"} <= set(found.names) < set(every.names)
    (own,) = detector(photos / "0.png")
    assert list(own) == [one for one in every if one.score > 0.5]
    for wrong, said in [
        ({"cow": 0.3}, "'cow' is none of the classes cat, dog, emu"),
        ({"cat": 3}, "3: a score, from 0 to 1"),
        (50, "50: a score, from 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=said):
            detector(photos / "0.png", threshold=wrong)


def test_a_runs_own_threshold_and_precision_are_taken(checkpoint, photos, tmp_path, hub):
    (tmp_path / "run").mkdir()
    for file in checkpoint.iterdir():
        (tmp_path / "run" / file.name).symlink_to(file)
    (tmp_path / "run" / "figures.json").write_text('{"threshold": 0.25}')
    (tmp_path / "run" / "recipe.yaml").write_text("bf16: true\n")
    detector = Detector(tmp_path / "run", "cpu")
    assert detector.threshold == 0.25 and "bf16" in detector.precision_note
    exact, coarse = Detector(checkpoint, "cpu")(photos / "0.png", 0), detector(photos / "0.png", 0)
    assert not torch.equal(exact[0].scores, coarse[0].scores)
    assert exact[0].scores[0].item() == pytest.approx(coarse[0].scores[0].item(), abs=0.05)
    assert not torch.is_autocast_enabled("cpu")

    files = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
    hub.repositories[REPOSITORY] = Repository(private=False)
    hub.repositories[REPOSITORY].commit("a run", files)
    from_hub = Detector(REPOSITORY, "cpu")
    assert from_hub.threshold == 0.25 and torch.equal(from_hub(photos / "0.png", 0)[0].scores, coarse[0].scores)


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        ("nowhere.jpg", FileNotFoundError, "no image nowhere.jpg"),
        (np.zeros((8, 8, 3)), ValueError, r"the image: an array must be uint8 \[h, w, 3\]"),
        ([np.zeros((3, 8, 8), dtype=np.uint8)], ValueError, "image 0: an array must be"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), ValueError, r"a tensor must be uint8 \[3, h, w\].*\[8, 8, 3\]"),
        (5, TypeError, "int is no path"),
        ([None], TypeError, "NoneType is no path"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_said_to_be_none(images, error, said, detector):
    with pytest.raises(error, match=said):
        detector(images)


def test_an_image_that_cannot_be_read_is_named(detector, photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"this is no image")
    with pytest.raises(OSError, match=r"broken\.jpg: cannot be read: not an image"):
        detector([photos / "0.png", tmp_path / "broken.jpg"])


def test_it_is_imported_only_when_it_is_asked_for():
    assert dino_detr.Detector is Detector
    code = "import dino_detr, sys; assert 'dino_detr.inference' not in sys.modules; print(dino_detr.Detector.__name__)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "Detector\n", done.stderr
