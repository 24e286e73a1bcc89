"""JSON of annotations and results, in whatever encoding a tool or an editor left it."""

import codecs
import json
from pathlib import Path
from typing import Any, TypedDict

from .json_lists import JsonList, decode_json, index_json

LISTS = ("images", "annotations", "categories")
_PACKED = (b"\x1f\x8b", b"PK\x03\x04")  # how gzip and zip files begin
_LARGEST_WHOLE = 2**30  # bytes of a file that is read at once to say what is wrong with it


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


def read_annotation_json(file: Path) -> dict[str, Any]:
    """Return what a COCO annotation file holds, of which only what is used here.

    Its lists are `JsonList`s, or, where the file is not in UTF-8, say, lists.

    Raises:
        ValueError: it is not JSON, or lacks one of its three lists.
    """
    try:
        content: Any = index_json(file, {"images": _Image, "annotations": _Annotation})
    except (ValueError, RecursionError) as fault:
        if file.stat().st_size > _LARGEST_WHOLE:
            raise ValueError(f"{file} is not readable as JSON: {fault}") from fault
        content = read_json(file, CocoAnnotations)
    lists = content if isinstance(content, dict) else {}
    wrong = [key for key in LISTS if not isinstance(lists.get(key), (list, JsonList))]
    if wrong:
        no_list = [f"{key} is no list" for key in wrong if key in lists]
        said = f" ({', '.join(no_list)})" if no_list else ""
        raise ValueError(
            f"{file} lacks {', '.join(wrong)}{said}: a COCO annotation file is an object with the lists images, "
            "annotations and categories."
        )
    return {**content, "categories": list(content["categories"])}


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
        return decode_json(as_utf8(text), form)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not readable as JSON: {error}. Save it as UTF-8.") from error
    except ValueError as error:
        raise ValueError(f"{file} is not readable as JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{file} is not readable as JSON: it is nested too deeply") from error


def as_utf8(text: bytes) -> bytes:
    """Return JSON in UTF-8 without a byte order mark, whichever of its encodings it has."""
    encoding = json.detect_encoding(text[:4])
    if encoding == "utf-8":
        return text
    if encoding == "utf-8-sig":
        return text[len(codecs.BOM_UTF8) :]
    return text.decode(encoding).encode("utf-8")
