"""Whatever an image file holds, the check, training, evaluation and prediction make the same of it."""

import io
import json
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from helpers.image_folders import PHOTOGRAPHS, defects_of, encode, write_coco
from PIL import Image, ImageOps, TiffImagePlugin
from torchvision.transforms.v2.functional import pil_to_tensor

from dino_detr.data import decoding
from dino_detr.data.augmentation import AUGMENTATIONS, build_augmentation
from dino_detr.data.check import check_split
from dino_detr.data.decoding import decode_image, decode_rgb, inspect_image, kind_of_fault, read_upright_size
from dino_detr.data.samples import TrainingSamples
from dino_detr.upright import upright_rgb

GREY = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)


def in_memory(content: bytes) -> dict:
    return {"path": None, "bytes": content}


# --- kinds of files


def sideways() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def file_kinds() -> dict[str, bytes]:
    image = Image.open(PHOTOGRAPHS[0]).crop((0, 0, 331, 201))  # no multiple of a JPEG's blocks
    sixteen_bit = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return {
        "jpeg": encode(image, "JPEG", quality=90),
        "jpeg 4:4:4 progressive": encode(image, "JPEG", subsampling=0, progressive=True),
        "jpeg RGB": encode(image, "JPEG", keep_rgb=True),
        "jpeg grey": encode(image.convert("L"), "JPEG"),
        "jpeg CMYK": encode(image.convert("CMYK"), "JPEG"),
        "jpeg turned": encode(image, "JPEG", exif=sideways()),
        "png": encode(image, "PNG"),
        "png turned": encode(image, "PNG", exif=sideways()),
        "png palette": encode(image.convert("P"), "PNG"),
        "png RGBA": encode(image.convert("RGBA"), "PNG"),
        "png 16-bit": encode(sixteen_bit, "PNG"),
        "webp": encode(image, "WEBP"),
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


# --- EXIF


def jpeg_with_exif(entries: list[tuple], head=b"MM\0*\0\0\0\x08") -> bytes:
    """A JPEG of 64 x 48 with these (tag, type, count, value of 4 bytes)."""
    directory = b"".join(struct.pack(">HHL", *entry[:3]) + entry[3] for entry in entries)
    return jpeg_with(b"Exif\0\0" + head + struct.pack(">H", len(entries)) + directory + bytes(4))


def jpeg_with(exif: bytes) -> bytes:
    plain = encode((GREY * 255).astype(np.uint8), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


SIDEWAYS = (0x0112, 3, 1, b"\0\6\0\0")
DAMAGED_EXIF = {  # and the size of the upright image: an orientation that can be read counts
    "no directory": (jpeg_with(b"Exif\0\0MM\0*"), (64, 48)),
    "another header": (jpeg_with_exif([SIDEWAYS], head=b"XX\0*\0\0\0\x08"), (64, 48)),
    "text for a fraction": (jpeg_with_exif([SIDEWAYS, (0x011A, 2, 4, b"abcd")]), (48, 64)),
    "a number below its range": (jpeg_with_exif([(0x0100, 9, 1, b"\xff\xff\xff\xff"), SIDEWAYS]), (48, 64)),
    "text for an offset": (jpeg_with_exif([(0x0111, 2, 4, b"abcd"), SIDEWAYS]), (48, 64)),
}


@pytest.mark.parametrize("kind", DAMAGED_EXIF)
def test_an_image_with_damaged_exif_is_read_and_named(kind, tmp_path):
    content, size = DAMAGED_EXIF[kind]
    source = write_coco(tmp_path, a_jpg=content)
    report = check_split(source, "train")
    assert "damaged_exif" in [finding.kind for finding in report.defects]
    assert report.rows["width"] == [size[0]]
    sample = TrainingSamples(report.rows, build_augmentation("none", [min(size)], max(size)), seed=0)[0]
    assert not sample["unreadable"] and sample["image"].shape[1:] == size[::-1]
    upright = decode_image(in_memory(content))
    assert upright.size == read_upright_size(io.BytesIO(content)) == size
    assert (torch.from_numpy(np.array(upright)).permute(2, 0, 1).int() - sample["image"].int()).abs().max() <= 1
    assert np.array_equal(upright_rgb(upright), upright)  # not turned twice


def test_a_turned_tiff_is_turned_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode((GREY * 255).astype(np.uint8), "TIFF", exif=exif)
    assert read_upright_size(io.BytesIO(content)) == inspect_image(content)[0] == (48, 64)
    assert decode_rgb(in_memory(content)).shape == (3, 64, 48)


def test_narrow_jpegs_are_whole():
    for size in ((3, 48), (48, 3), (1, 1)):
        content = encode(Image.new("RGB", size), "JPEG")
        assert inspect_image(content)[0] == size


# --- ranges of values


def tiff(values, **tags) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[int(name[1:])] = value
    return encode(values, "TIFF", tiffinfo=directory)


FULL, TWELVE = (GREY * 65535).astype(np.uint16), (GREY * 4095).astype(np.uint16)
RANGES = {  # (file, whether its range is known)
    "float 0..1": (tiff(GREY), True),
    "float 0..1 with overshoot": (tiff(GREY * 1.02 - 0.01), False),
    "float 0..255": (tiff(GREY * 255), False),
    "float 0..1000": (tiff(GREY * 1000), False),
    "float -5..5": (tiff(GREY * 10 - 5), False),
    "float 0..3": (tiff(GREY * 3), False),
    "float 0..1000, stated": (tiff(GREY * 1000, t340=0.0, t341=1000.0), True),
    "8 bits in 32": (tiff((GREY * 255).astype(np.int32)), False),
    "16 bits in 32": (tiff((GREY * 65535).astype(np.int32)), True),
    "32 bits": (tiff((GREY.astype(float) * 2_000_000_000).astype(np.int32)), False),
    "32 bits below 0": (tiff((GREY * 3000 - 1000).astype(np.int32)), False),
    "16 bits": (tiff(FULL), True),
    "12 bits in 16": (tiff(TWELVE), False),
    "12 bits in 16, stated": (tiff(TWELVE, t281=4095), True),
    "12 bits in 16, PNG": (encode(TWELVE, "PNG"), False),
    "8 bits in 16": (encode((GREY * 255).astype(np.uint16), "PNG"), False),
}


@pytest.mark.parametrize("kind", RANGES)
def test_no_picture_comes_out_black(kind, tmp_path):
    """Each is the same ramp of grey; where its range had to be guessed, the check says so."""
    content, is_known = RANGES[kind]
    pixels = decode_rgb(in_memory(content)).int()
    expected = torch.from_numpy(GREY * 255)
    assert (pixels - expected).abs().max() < 8, pixels[0, :, -1]
    assert torch.equal(pixels[0], pixels[2])
    path = tmp_path / "image"
    path.write_bytes(content)
    for image in (decode_image({"path": str(path), "bytes": None}), upright_rgb(Image.open(path))):
        assert np.array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())
    found = dict(inspect_image(content)[1])
    assert ("unknown_range" in found) != is_known
    assert is_known or "is taken as black to white" in found["unknown_range"]


def test_16_bit_colours_that_pillow_makes_black_are_named():
    colours = np.repeat(TWELVE[..., None], 3, axis=2).astype(">u2")
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in colours))
    content = b"\x89PNG\r\n\x1a\n"
    for name, chunk in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(chunk)) + name + chunk + struct.pack(">I", zlib.crc32(name + chunk))
    assert decode_rgb(in_memory(content)).max() == 15
    ((kind, text),) = inspect_image(content)[1]
    assert kind == "unknown_range" and "16-bit colours" in text


@pytest.mark.parametrize("values", [GREY > 0.5, GREY.astype(np.uint16) * 0, GREY * 0], ids=["mask", "16 bits", "float"])
def test_black_pictures_are_remarked_on(values):
    content = tiff(values if values.dtype != bool else values.astype(np.uint8))
    assert [kind for kind, _ in inspect_image(content)[1]] == ["dark_image"]


def test_values_that_are_not_finite_are_no_trouble():
    values = GREY.copy()
    values[0] = np.nan
    values[1] = np.inf
    pixels = decode_rgb(in_memory(tiff(values)))
    assert pixels[0, 0].max() == 0 and pixels[0, 1].min() == 255 and pixels[0, -1, -1] == 255
    assert "not finite" in dict(inspect_image(tiff(values))[1])["unknown_range"]
    assert decode_rgb(in_memory(tiff(values * np.nan))).max() == 0


# --- sizes


@pytest.fixture
def limit(monkeypatch):
    """Pillow's limit at 1,000 pixels: it refuses 2,001."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


@pytest.fixture
def huge_and_small() -> dict[str, bytes]:
    return {
        "big_png": encode((GREY * 255).astype(np.uint8), "PNG"),
        "small_png": encode(Image.new("RGB", (8, 8)), "PNG"),
    }


def test_an_image_above_the_limit_is_named_with_a_way_out(limit, huge_and_small, tmp_path, monkeypatch, capsys):
    source = write_coco(tmp_path / "coco", **huge_and_small)
    annotations = tmp_path / "coco" / "annotations" / "instances_train.json"
    without_sizes = json.loads(annotations.read_text())
    for image in without_sizes["images"]:
        del image["width"], image["height"]
    for content in (annotations.read_text(), json.dumps(without_sizes)):
        annotations.write_text(content)
        report = check_split(source, "train")
        (example,) = next(finding for finding in report.defects if finding.kind == "image_too_large").examples
        assert example.file.endswith("big.png")
        assert example.value.startswith("3,072 pixels are more than the 2,000 that are read: cut it into tiles or")
        assert example.value.endswith("DINO_DETR_MAX_IMAGE_PIXELS=3072") and len(report.rows) == 1
    for read in (decode_rgb, decode_image):
        with pytest.raises(decoding.ImageTooLarge, match="cut it into tiles"):
            read(in_memory(huge_and_small["big_png"]))
    monkeypatch.setenv("DINO_DETR_MAX_IMAGE_PIXELS", "3072")
    assert "image_too_large" not in defects_of(source)
    monkeypatch.setenv("DINO_DETR_MAX_IMAGE_PIXELS", "3070")
    assert "image_too_large" in defects_of(source)


@pytest.mark.filterwarnings("error")
def test_an_image_between_pillows_warning_and_its_limit_is_read(limit, tmp_path, recwarn):
    decoding.silence_pillow()
    content = encode(Image.new("RGB", (40, 40)), "PNG")
    assert inspect_image(content)[0] == decode_image(in_memory(content)).size == (40, 40)
    assert not recwarn


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_very_long_image_can_be_trained_on(name, tmp_path):
    content = encode(Image.new("L", (20_000, 50)), "PNG")
    report = check_split(write_coco(tmp_path, a_png=content), "train")
    assert "elongated_image" in [finding.kind for finding in report.remarks]
    sizes = [128] if name == "large_scale_jitter" else [96, 128]
    sample = TrainingSamples(report.rows, build_augmentation(name, sizes, 128), seed=0)[0]
    assert min(sample["image"].shape[1:]) >= 16 and max(sample["image"].shape[1:]) <= 128


# --- fuzz


def seeds_of_images() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    return {
        "jpeg": encode(colours, "JPEG", exif=exif),
        "progressive": encode(colours, "JPEG", progressive=True),
        "png": encode(colours, "PNG", exif=exif),
        "16-bit png": encode(FULL, "PNG"),
        "tiff": encode(colours, "TIFF", exif=exif),
        "float tiff": tiff(GREY),
        "webp": encode(colours, "WEBP", exif=exif),
        "gif": encode(colours.convert("P"), "GIF"),
        "bmp": encode(colours, "BMP"),
        "mpo": encode(colours, "MPO", save_all=True, append_images=[colours]),
    }


def mutate(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    end = draw.choice([len(changed), min(300, len(changed))])
    how = draw.random()
    if how < 0.6:
        for _ in range(draw.choice([1, 1, 3, 20])):
            changed[draw.randrange(end)] = draw.choice([0, 255, draw.randrange(256)])
    elif how < 0.8:
        del changed[draw.randrange(end) :]
    else:
        place = draw.randrange(end)
        changed[place : place + draw.randrange(9)] = draw.randbytes(draw.randrange(9))
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
@pytest.mark.parametrize("kind", seeds_of_images())
def test_damaged_files_come_to_the_same_everywhere(kind):
    """50 of each kind: the check knows of each file whether training and prediction can read it, and its size."""

    def outcome(read, *arguments):
        try:
            return read(*arguments)
        except OSError as error:
            return kind_of_fault(error)

    content = seeds_of_images()[kind]
    for number in range(50):
        seed = f"{kind} {number}"
        damaged = mutate(content, random.Random(seed))
        checked, pixels, image = (
            outcome(inspect_image, damaged),
            outcome(decode_rgb, in_memory(damaged)),
            outcome(decode_image, in_memory(damaged)),
        )
        outcome(read_upright_size, io.BytesIO(damaged))
        if isinstance(checked, str):
            assert pixels == image == checked, seed
        else:
            assert checked[0] == tuple(pixels.shape[:0:-1]) == image.size, seed
