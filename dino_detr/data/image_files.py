"""Facts about the image files of a data set, such as whether they can be decoded. They are kept from check to check."""

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from datasets import Dataset
from PIL import Image as PILImage
from tqdm import tqdm
from transformers.utils import logging

from .decoding import describe_fault, inspect_image, kind_of_fault, read_file, read_upright_size
from .findings import KINDS

logger = logging.get_logger(__name__)

_NO_READERS = {"BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF"}  # of Pillow's: they want another program or a plugin
# Suffixes of the files that Pillow can read, in lower case
IMAGE_SUFFIXES = {
    suffix for suffix, form in PILImage.registered_extensions().items() if form in PILImage.OPEN.keys() - _NO_READERS
} | {".mpo"}

_CACHE_VERSION = 2
_TOGETHER = 64  # images, of a task


@dataclass
class ImageFacts:
    """
    Facts about the images of n rows.

    Args:
        sizes: int64 `[n, 2]`, width and height in pixels of the upright image; 0 where it cannot be decoded.
        digests: of the files' bytes, "" where the image cannot be decoded.
        faults: for rows whose image cannot be decoded, the kind of finding and what was met.
        remarks: for rows of whose image something is to be said, kinds of findings and texts.
    """

    sizes: np.ndarray
    digests: list[str]
    faults: dict[int, tuple[str, str]]
    remarks: dict[int, list[tuple[str, str]]]


def inspect_images(rows: Dataset, name: str, pixels: bool = True) -> ImageFacts:
    """
    Decode the image of every row, on all cores, but for files that have not changed since they were last decoded.

    What is found is kept as JSON in the user's cache (`~/.cache/dino-detr`, or under `XDG_CACHE_HOME`): files by path,
    size and time of change, embedded images by their bytes. Files with a fault are tried anew each time: it may have
    been a moment's, such as too little memory or a codec that is missing, and Pillow does not always say. A cache that
    cannot be written to is announced, once; one of another version of Pillow, or not made by this, is ignored.

    Args:
        rows: of `load_detection_dataset`.
        name: of these rows in the cache.
        pixels: whether images are decoded. Else their sizes are read, without digests, and nothing is kept.
    """
    cache = cache_folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
    known = _read_cache(cache) if pixels else {}
    images = rows.select_columns(["image"]).with_format("arrow")

    def inspect_some(start: int) -> list[tuple[str, dict]]:
        column = images[start : start + _TOGETHER]["image"].combine_chunks()
        return [_inspect(image, known) if pixels else _read_header(image) for image in column.to_pylist()]

    facts = ImageFacts(np.zeros((len(rows), 2), dtype=np.int64), [], {}, {})
    seen = {}
    with ThreadPoolExecutor(_cores()) as threads:  # Pillow decodes outside the interpreter's lock
        tasks = threads.map(inspect_some, range(0, len(rows), _TOGETHER))
        progress = tqdm(total=len(rows), desc="checking images", unit="image", disable=None, leave=False)
        for some in tasks:
            for key, entry in some:
                row = len(facts.digests)
                facts.digests.append(entry.get("digest", ""))
                if "fault" in entry:
                    facts.faults[row] = entry["fault"]
                    continue
                facts.sizes[row] = entry["size"]
                if entry["remarks"]:
                    facts.remarks[row] = [tuple(remark) for remark in entry["remarks"]]
                if pixels:
                    seen[key] = entry
            progress.update(len(some))
        progress.close()
    if seen != known:
        content = json.dumps({"version": _cache_version(), "images": seen}).encode()
        write_cache(cache, content, "images are checked every time")
    return facts


def image_name(image: dict, image_id: int) -> str:
    """How to name an undecoded image (`bytes`, `path`) to its owner."""
    return image["path"] or f"image {image_id}"


def image_names(rows: Dataset) -> Iterator[str]:
    """How to name the image of each row."""
    ids = rows["image_id"]
    images = rows.select_columns(["image"]).with_format("arrow")
    for start in range(0, len(rows), 1000):  # paths only: embedded images are large
        column = images[start : start + 1000]["image"].combine_chunks()
        for offset, path in enumerate(column.field("path").to_pylist()):
            yield path or f"image {ids[start + offset]}"


def list_image_files(folder: Path) -> Iterator[str]:
    """Paths of the image files in a folder and the folders in it, by suffix, sorted within each."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield os.path.join(place, name)


def _inspect(image: dict, known: dict[str, dict]) -> tuple[str, dict]:
    """
    Return the key of an undecoded image and what is known of it.

    That is `{"stamp": [bytes, mtime_ns], "size": [width, height], "digest", "remarks"}`, or `{"fault": (kind, text)}`.
    """
    path, content = image["path"], image["bytes"]
    key, stamp = path, []
    try:
        if content is None:
            status = os.stat(path)
            stamp = [status.st_size, status.st_mtime_ns]
            if path in known and known[path]["stamp"] == stamp:
                return path, known[path]
        content = read_file(image)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        if image["bytes"] is not None:
            key, stamp = f"bytes:{digest}", [len(content), 0]
            if key in known:
                return key, known[key]
        size, remarks = inspect_image(content)
    except OSError as error:
        size = None if content is None else len(content)
        return key, {"fault": (kind_of_fault(error), describe_fault(error, size))}
    return key, {"stamp": stamp, "size": list(size), "digest": digest, "remarks": [list(remark) for remark in remarks]}


def _read_header(image: dict) -> tuple[str, dict]:
    """Return what `_inspect` does, as far as an image's header says."""
    try:
        size = read_upright_size(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"]))
    except OSError as error:
        return "", {"fault": (kind_of_fault(error), describe_fault(error))}
    return "", {"size": list(size), "remarks": []}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Return the folder of what this package keeps for this user between runs; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dino-detr"


def _cache_version() -> str:
    """Return what a cache depends on beside the files."""
    return f"{_CACHE_VERSION}, Pillow {PIL.__version__}, {PILImage.MAX_IMAGE_PIXELS} pixels"


def _read_cache(file: Path) -> dict[str, dict]:
    """Return the entries of a cache that this user's `write_cache` wrote; of anything else, none."""
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
                return {}
            content = json.loads(opened.read().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("version") != _cache_version():
        return {}
    images = content.get("images")
    return {key: entry for key, entry in images.items() if _is_entry(entry)} if isinstance(images, dict) else {}


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a named pipe would be waited for


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
        return False
    pairs = [entry.get("stamp"), entry.get("size")]
    if not all(isinstance(pair, list) and [type(value) for value in pair] == [int, int] for pair in pairs):
        return False
    remarks = entry.get("remarks")
    return (
        min(entry["size"]) > 0
        and isinstance(remarks, list)
        and all(isinstance(remark, list) and [type(text) for text in remark] == [str, str] for remark in remarks)
        and all(kind in KINDS for kind, _ in remarks)
    )


def write_cache(file: Path, content: bytes, otherwise: str) -> None:
    """Write a file of the cache, whole or not at all; if it cannot be, warn once of what happens `otherwise`."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as fault:
        logger.warning_once(f"{file.parent} cannot be written to ({fault.strerror}): {otherwise}")
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
