"""JSON of annotations and results, in whatever encoding a tool or an editor left it."""

import codecs
import json
from pathlib import Path
from typing import Any, TypedDict

import msgspec

LISTS = ("images", "annotations", "categories")
_PACKED = (b"\x1f\x8b", b"PK\x03\x04")  # how gzip and zip files begin


class _Image(TypedDict, total=False):
    id: Any
    file_name: Any
    width: Any
    height: Any


class _Annotation(TypedDict, total=False):
    id: Any
    image_id: Any
    category_id: Any
    bbox: Any
    area: Any
    iscrowd: Any


class CocoAnnotations(TypedDict, total=False):
    """The fields that are read of an annotation file. Outlines are left out: they take ten times longer to read."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[Any]


def read_annotation_json(file: Path) -> dict:
    """Return what a COCO annotation file holds, of which only what is used here.

    Raises:
        ValueError: it is not JSON, or lacks one of its three lists.
    """
    content = read_json(file, CocoAnnotations)
    lists = content if isinstance(content, dict) else {}
    wrong = [key for key in LISTS if not isinstance(lists.get(key), list)]
    if wrong:
        no_list = [f"{key} is no list" for key in wrong if key in lists]
        said = f" ({', '.join(no_list)})" if no_list else ""
        raise ValueError(
            f"{file} lacks {', '.join(wrong)}{said}: a COCO annotation file is an object with the lists images, "
            "annotations and categories."
        )
    return content


def read_json(file: Path, form: Any = Any) -> Any:
    """Return what a JSON file holds, in UTF-8, 16 or 32, with or without a byte order mark.

    Args:
        form: of which fields are read, if the file has that form; else all are.

    Raises:
        ValueError: it is not JSON.
    """
    text = file.read_bytes()
    if text.startswith(_PACKED):
        raise ValueError(f"{file} is not readable as JSON: it is packed (gzip or zip). Unpack it.")
    try:
        text = as_utf8(text)
        try:
            return msgspec.json.decode(text, type=form)
        except (msgspec.MsgspecError, RecursionError):
            # NaN, which Python writes though JSON has no such thing; thousands of digits; or another form
            return json.loads(text, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not readable as JSON: {error}. Save it as UTF-8.") from error
    except ValueError as error:
        raise ValueError(f"{file} is not readable as JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{file} is not readable as JSON: it is nested too deeply") from error


def _whole(digits: str) -> int | float:
    """Return a whole number; of more digits than Python reads, infinity, which no field can be."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def as_utf8(text: bytes) -> bytes:
    """Return JSON in UTF-8 without a byte order mark, whichever of its encodings it has."""
    encoding = json.detect_encoding(text[:4])
    if encoding == "utf-8":
        return text
    if encoding == "utf-8-sig":
        return text[len(codecs.BOM_UTF8) :]
    return text.decode(encoding).encode("utf-8")
