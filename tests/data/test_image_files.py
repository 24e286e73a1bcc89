"""What is remembered of image files, and what is not."""

import errno
import json
import logging
import pickle

import pytest
from helpers.dirty import write_clean
from helpers.image_folders import defects_of, encode, write_coco
from PIL import Image

from dino_detr.data import image_files
from dino_detr.data.check import check_split

MOMENTS = {
    "memory": MemoryError(),
    "too many open files": OSError(errno.EMFILE, "Too many open files"),
    "the disk": OSError(errno.EIO, "Input/output error"),
    "permission": PermissionError(errno.EACCES, "Permission denied"),
    "a decoder that is missing": OSError("decoder jpeg not available"),
    "a format that is missing": Image.UnidentifiedImageError("cannot identify image file"),
    "a decoder without memory": OSError("out of memory when reading image file"),
    "anything": RuntimeError("?"),
}


@pytest.mark.parametrize("where", ["open", "load"])
@pytest.mark.parametrize("kind", MOMENTS)
def test_a_moments_failure_is_not_remembered(kind, where, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = write_coco(tmp_path / "coco", a_jpg=encode(Image.new("RGB", (64, 48)), "JPEG"))

    def fail(*arguments, **options):
        raise MOMENTS[kind]

    with monkeypatch.context() as moment:
        moment.setattr(*{"open": (Image, "open"), "load": (Image.Image, "load")}[where], fail)
        if where == "load":
            moment.setattr("PIL.ImageFile.ImageFile.load", fail)
        assert sum(defects_of(source).values()) == 1
    assert not defects_of(source)


def test_a_cache_that_is_not_ours_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = write_coco(tmp_path / "coco", a_jpg=encode(Image.new("RGB", (64, 48)), "JPEG"))
    assert not defects_of(source)
    (cache,) = (tmp_path / "cache" / "dino-detr").iterdir()
    ours = json.loads(cache.read_text())
    key, entry = next(iter(ours["images"].items()))
    for content in (
        b"", b"\0\xff", b"[" * 100_000, b"[]", b"null", b'{"version": 1, "images": {}}', pickle.dumps(ours),
        *(json.dumps(ours | {"images": images}).encode() for images in (
            None, [1], {key: None}, {key: []}, {key: entry | {"size": [0, 48]}}, {key: entry | {"size": ["64", 48]}},
            {key: entry | {"remarks": [["no such kind", ""]]}}, {key: entry | {"remarks": 3}},
            {key: {"fault": ["x", "y"]}},
        )),
    ):  # fmt: skip
        cache.write_bytes(content)
        assert not defects_of(source), content[:80]
    wrong = json.dumps(ours | {"images": {key: entry | {"size": [1, 1]}}})
    cache.write_text(wrong)
    assert "wrong_size" in defects_of(source)  # so this is read
    cache.write_text(wrong.replace("Pillow ", "Pillow 1."))
    assert not defects_of(source)
    cache.write_text(wrong)
    monkeypatch.setattr("os.getuid", lambda: 12345)  # another user's
    assert not defects_of(source)


def test_files_are_opened_again_when_they_change(tmp_path, monkeypatch):
    opened, open_ = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *arguments: opened.append(1) or open_(*arguments))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_clean(tmp_path / "data")
    checked = [check_split(str(tmp_path / "data"), "train") for _ in range(2)]
    assert len(opened) == 6
    assert checked[0].findings == checked[1].findings and checked[0].digests == checked[1].digests
    (tmp_path / "data" / "train" / "shared.png").write_bytes(b"no longer")
    report = check_split(str(tmp_path / "data"), "train")
    assert len(opened) == 7
    assert [(finding.kind, finding.count) for finding in report.defects] == [("not_an_image", 1)]
    assert len(report.rows) == 5


def test_a_cache_that_cannot_be_written_is_announced_once(tmp_path, monkeypatch):
    write_clean(tmp_path / "clean")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    records, handler = [], logging.Handler()
    handler.emit = records.append
    image_files.logger.addHandler(handler)
    for split in ("train", "train", "val"):
        assert check_split(str(tmp_path / "clean"), split).images
    image_files.logger.removeHandler(handler)
    (record,) = records
    assert f"{tmp_path / 'file' / 'dino-detr'} cannot be written to" in record.getMessage()
