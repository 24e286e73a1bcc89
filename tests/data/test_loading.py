"""Files become batches by fast ways, with the values of the plain ones."""

import io
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import DetrImageProcessor

from dino_detr import DinoDetrImageProcessor
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.decoding import decode_rgb
from dino_detr.data.samples import collate
from dino_detr.training import parse_options
from dino_detr.training.run import prepare

PHOTOGRAPHS = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))  # 640 x 427
SIZES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]


def encode(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def sideways() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def file_kinds() -> dict[str, bytes]:
    image = Image.open(PHOTOGRAPHS[0]).crop((0, 0, 331, 201))  # no multiple of a JPEG's blocks
    sixteen_bit = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return {
        "jpeg": encode(image, format="JPEG", quality=90),
        "jpeg 4:4:4 progressive": encode(image, format="JPEG", subsampling=0, progressive=True),
        "jpeg RGB": encode(image, format="JPEG", keep_rgb=True),
        "jpeg grey": encode(image.convert("L"), format="JPEG"),
        "jpeg CMYK": encode(image.convert("CMYK"), format="JPEG"),
        "jpeg turned": encode(image, format="JPEG", exif=sideways()),
        "png": encode(image, format="PNG"),
        "png turned": encode(image, format="PNG", exif=sideways()),
        "png palette": encode(image.convert("P"), format="PNG"),
        "png RGBA": encode(image.convert("RGBA"), format="PNG"),
        "png 16-bit": encode(sixteen_bit, format="PNG"),
        "webp": encode(image, format="WEBP"),
    }


@pytest.mark.parametrize("kind", file_kinds())
@pytest.mark.parametrize("decoder", ["torchvision's", "none"])  # it may go from torchvision one day
def test_every_kind_of_file_is_decoded_as_by_pillow(kind, decoder, tmp_path, monkeypatch):
    """From a file and from bytes. JPEGs are a level off at most, where libjpegs differ."""
    if decoder == "none":
        monkeypatch.setattr("dino_detr.data.decoding.decode_jpeg", None)
    data = file_kinds()[kind]
    plain = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if plain.mode == "I;16":
        plain = Image.fromarray((np.asarray(plain) // 256).astype(np.uint8))
    expected = pil_to_tensor(plain.convert("RGB")).int()
    assert expected.shape == ((3, 331, 201) if "turned" in kind else (3, 201, 331))
    (tmp_path / "image").write_bytes(data)
    for file in ({"path": str(tmp_path / "image"), "bytes": None}, {"path": "elsewhere.jpg", "bytes": data}):
        decoded = decode_rgb(file)
        assert decoded.dtype == torch.uint8 and decoded.shape == expected.shape and decoded.stride(0) == 1
        assert (decoded.int() - expected).abs().max() <= ("jpeg" in kind)


def test_damaged_files_raise_what_pillow_does(tmp_path):
    data = PHOTOGRAPHS[0].read_bytes()
    for damaged in (data[: len(data) // 2], data[:2000], data[:20], b""):
        with pytest.raises(OSError) as expected:
            Image.open(io.BytesIO(damaged)).load()
        (tmp_path / "image.jpg").write_bytes(damaged)
        with pytest.raises(type(expected.value)) as found:
            decode_rgb({"path": str(tmp_path / "image.jpg"), "bytes": None})
        assert str(found.value).split("<")[0] == str(expected.value).split("<")[0]


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


@pytest.fixture
def samples():
    """Three photographs of different sizes, channels last and not; one box each."""
    annotation = {"image_id": 1, "annotations": [{"bbox": [1, 2, 30, 40], "category_id": 0, "area": 9.0, "iscrowd": 0}]}
    pixels = decode_rgb({"path": str(PHOTOGRAPHS[0]), "bytes": None})
    images = [pixels[:, :200], pixels[:, :, :300], pixels[:, 50:150, 20:100].contiguous()]
    return [{"image": image, "annotation": annotation, "noise_seed": 5, "unreadable": []} for image in images]


def test_a_batch_normalised_late_is_the_processors(samples):
    """Bit for bit what transformers' own processor makes of each image alone, 0 in the padding."""
    processor = DinoDetrImageProcessor()
    batch = collate(samples)
    assert batch["images"].dtype == torch.uint8
    sizes = torch.stack([label["size"] for label in batch["labels"]])
    late = processor.normalize_padded(batch["images"], sizes)

    images = [sample["image"] for sample in samples]
    expected = DetrImageProcessor(do_resize=False)(images, return_tensors="pt")
    annotations = [sample["annotation"] for sample in samples]
    at_once = processor(images, annotations, do_resize=False, return_tensors="pt")
    for found in (late, at_once):
        for name in ("pixel_values", "pixel_mask"):
            assert found[name].dtype == expected[name].dtype
            assert torch.equal(found[name], expected[name])
            assert found[name].is_contiguous()
    for label, other in zip(batch["labels"], at_once["labels"]):
        assert label.keys() == other.keys()
        assert all(torch.equal(label[name], other[name]) for name in label)

    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    by_hand = (images[0].double() / 255 - mean) / std
    assert (late["pixel_values"][0, :, :200] - by_hand).abs().max() < 1e-6


def test_pad_size(samples):
    images = [sample["image"] for sample in samples]
    pad_size = {"height": 500, "width": 700}
    padded = DinoDetrImageProcessor()(images, do_resize=False, pad_size=pad_size, return_tensors="pt")
    expected = DetrImageProcessor(do_resize=False)(images, pad_size=pad_size, return_tensors="pt")
    assert torch.equal(padded["pixel_values"], expected["pixel_values"])
    with pytest.raises(ValueError, match="pad_size 500 x 600 is less than an image's 427 x 640"):
        DinoDetrImageProcessor()(images, do_resize=False, pad_size={"height": 500, "width": 600}, return_tensors="pt")


def test_workers_send_bytes_and_the_model_gets_floats(recipe, tmp_path):
    """Through the trainer, with accumulation: the values are those of the processor on the samples."""
    options = ["--gradient_accumulation_steps", "2", "--dataloader_num_workers", "1"]
    trainer = prepare(parse_options([str(recipe), *options, "--output_dir", str(tmp_path / "run")]))
    loader = trainer.get_train_dataloader()
    assert {batch["images"].dtype for batch in loader} == {torch.uint8}
    batches, _ = trainer.get_batch_samples(iter(loader), 2, trainer.args.device)
    assert len(batches) == 2
    order = list(trainer._get_train_sampler())
    for start, batch in zip((0, 2), batches):
        samples = [trainer.train_dataset[index] for index in order[start : start + 2]]
        images, annotations = ([sample[name] for sample in samples] for name in ("image", "annotation"))
        expected = trainer.processor(images, annotations, do_resize=False, return_tensors="pt")
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(batch["pixel_mask"], expected["pixel_mask"])
        assert [label["image_id"] for label in batch["labels"]] == [label["image_id"] for label in expected["labels"]]
    assert trainer.step.batches[1] is batches[1]  # what a dump of the step would hold
