"""Which image files of a data set can be decoded, and what they are; remembered from check to check."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from tqdm import tqdm
from transformers.utils import logging

logger = logging.get_logger(__name__)

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}

_CACHE_VERSION = 1
_TOGETHER = 64  # images, of a task


@dataclass
class ImageFacts:
    """
    Of the images of n rows.

    Args:
        sizes: int64 `[n, 2]`, width and height in pixels of the upright image; 0 where it cannot be decoded.
        digests: of the files' bytes, "" where there is no file.
        faults: for rows whose image cannot be decoded, the kind of finding and what was met.
    """

    sizes: np.ndarray
    digests: list[str]
    faults: dict[int, tuple[str, str]]


def inspect_images(rows: Dataset, name: str) -> ImageFacts:
    """
    Decode the image of every row, on all cores, but for files that have not changed since they were last decoded.

    What is found is kept as JSON in the user's cache (`~/.cache/dino-detr`, or under `XDG_CACHE_HOME`): files by path,
    size and time of change, embedded images by their bytes. A cache that cannot be written to is announced, once.

    Args:
        rows: of `load_detection_dataset`.
        name: of these rows in the cache.
    """
    cache = _cache_folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
    known = _read_cache(cache)
    images = rows.select_columns(["image"]).with_format("arrow")

    def inspect_some(start: int) -> list[tuple[str, list]]:
        column = images[start : start + _TOGETHER]["image"].combine_chunks()
        return [_inspect(image, known) for image in column.to_pylist()]

    facts = ImageFacts(np.zeros((len(rows), 2), dtype=np.int64), [], {})
    seen = {}
    with ThreadPoolExecutor(_cores()) as threads:  # Pillow decodes outside the interpreter's lock
        tasks = threads.map(inspect_some, range(0, len(rows), _TOGETHER))
        progress = tqdm(total=len(rows), desc="checking images", unit="image", disable=None, leave=False)
        for some in tasks:
            for key, entry in some:
                _, _, width, height, digest, *fault = entry
                facts.sizes[len(facts.digests)] = width, height
                if fault:
                    facts.faults[len(facts.digests)] = tuple(fault)
                facts.digests.append(digest)
                seen[key] = entry
            progress.update(len(some))
        progress.close()
    if seen != known:
        _write_cache(cache, seen)
    return facts


def find_fault(rows: Dataset, index: int) -> tuple[str, str] | None:
    """The image file of a row, or what names it, and why it cannot be decoded; None if it can."""
    row = rows.select_columns(["image", "image_id"]).cast_column("image", Image(decode=False))[index]
    _, (_, _, _, _, _, *fault) = _inspect(row["image"], {})
    return (image_name(row["image"], row["image_id"]), fault[1]) if fault else None


def image_name(image: dict, image_id: int) -> str:
    """How to name an undecoded image (`bytes`, `path`) to its owner."""
    return image["path"] or f"image {image_id}"


def image_names(rows: Dataset) -> Iterator[str]:
    """How to name the image of each row."""
    ids = rows["image_id"]
    for start in range(0, len(rows), 1000):  # paths only: embedded images are large
        column = rows.select_columns(["image"]).with_format("arrow")[start : start + 1000]["image"].combine_chunks()
        for offset, path in enumerate(column.field("path").to_pylist()):
            yield path or f"image {ids[start + offset]}"


def list_image_files(folder: Path) -> Iterator[str]:
    """Paths of the image files in a folder and the folders in it, by suffix, sorted within each."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield os.path.join(place, name)


def read_upright_size(file) -> tuple[int, int]:
    """
    Width and height in pixels of an image turned as its EXIF orientation says, without decoding its pixels.

    Args:
        file: a path or a file object.

    Raises:
        OSError: if it is not an image.
    """
    with PILImage.open(file) as image:
        width, height = image.size
        return (height, width) if _is_turned_sideways(image) else (width, height)


def _inspect(image: dict, known: dict[str, list]) -> tuple[str, list]:
    """
    Of an undecoded image, its key and `[size, mtime_ns, width, height, digest]` with `kind, text` if it has a fault.
    """
    path, content = image["path"], image["bytes"]
    try:
        if content is None:
            status = os.stat(path)
            key, stamp = path, [status.st_size, status.st_mtime_ns]
            if known.get(key, [])[:2] == stamp:
                return key, known[key]
            content = Path(path).read_bytes()
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        else:
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            key, stamp = f"bytes:{digest}", [len(content), 0]
            if key in known:
                return key, known[key]
    except OSError as fault:
        return path, [0, 0, 0, 0, "", "missing_file", fault.strerror]
    try:
        return key, [*stamp, *_decode(content), digest]
    except UnidentifiedImageError:
        return key, [*stamp, 0, 0, digest, "not_an_image", f"not an image ({len(content):,} bytes)"]
    except Exception as fault:  # Pillow's readers raise whatever comes
        return key, [*stamp, 0, 0, digest, "truncated_file", str(fault)]


def _decode(content: bytes) -> tuple[int, int]:
    """Of an encoded image that is whole, its upright size in pixels."""
    with PILImage.open(io.BytesIO(content)) as image:
        width, height = image.size
        # JPEG data are read to their end at an eighth of the size too, in half of the time
        image.draft("L", (width // 8, height // 8))
        image.load()
        return (height, width) if _is_turned_sideways(image) else (width, height)


def _is_turned_sideways(image: PILImage.Image) -> bool:
    return image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dino-detr"


def _read_cache(file: Path) -> dict[str, list]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content["images"] if content["version"] == _CACHE_VERSION else {}


def _write_cache(file: Path, images: dict[str, list]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"version": _CACHE_VERSION, "images": images}), encoding="utf-8")
        temporary.replace(file)
    except OSError as fault:
        logger.warning_once(f"{file.parent} cannot be written to ({fault.strerror}): images are checked every time")
