"""One XML file of Pascal VOC: its image's name and its objects."""

import codecs
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from ..numbers import read_flag

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_TAGS = {
    "annotation",
    "filename",
    "folder",
    "size",
    "width",
    "height",
    "object",
    "name",
    "bndbox",
    "difficult",
    *_SIDES,
}
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")


@dataclass
class VocFile:
    """
    The content of an XML file.

    Args:
        file_name: `filename`, with the folders that it may have.
        folder: `folder`, "" without one.
        size: width and height in pixels, None where they are not numbers or 0.
        objects: (name, (xmin, ymin, xmax, ymax), difficult).
        faults: objects that were left out, and why.
    """

    file_name: str
    folder: str
    size: tuple[float, float] | None
    objects: list[tuple[str, tuple[float, ...], bool]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_voc_xml(path: Path) -> VocFile:
    """
    Read an XML file in whatever encoding it declares, with namespaces or without.

    Raises:
        ValueError: it is no XML, no annotation, or defines entities. The message begins with the line, if it has one.
        OSError: it cannot be read.
    """
    try:
        root = ElementTree.fromstring(_decode(path.read_bytes()))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise ValueError(f"{line}: not readable as XML, at column {column}: {error.msg}") from error
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
        element.tag = element.tag.lower() if element.tag.lower() in _TAGS else element.tag
    if root.tag != "annotation" and root.find("object") is None and root.find("filename") is None:
        raise ValueError(f" no VOC annotation: its root is <{root.tag}>, without object or filename")
    content = VocFile(_text(root, "filename"), _text(root, "folder"), _size(root))
    for number, entry in enumerate(root.findall("object"), start=1):  # not of parts, which are inside of objects
        name = _text(entry, "name")
        try:
            corners = tuple(float(entry.findtext(f"bndbox/{side}", "")) for side in _SIDES)
        except ValueError:
            content.faults.append(f"object {number} ({name}) has no bndbox of four numbers")
            continue
        if not name or not all(abs(value) < 1e9 for value in corners):
            content.faults.append(f"object {number} ({name}) has no name, or a bndbox that is not finite")
            continue
        content.objects.append((name, corners, read_flag(_text(entry, "difficult")) == 1))
        if (boxes := len(entry.findall("bndbox"))) > 1:
            content.faults.append(f"object {number} ({name}) has {boxes} bndbox, of which the first is taken")
    outside = sum(1 for _ in root.iter("bndbox")) - sum(
        1 for entry in root.findall("object") for _ in entry.iter("bndbox")
    )
    if outside:
        content.faults.append(f"{outside} bndbox lie outside of the annotation's objects, and are left out")
    return content


def _decode(content: bytes) -> str:
    """Return the text of an XML file without its declaration: the parser itself knows hardly any encodings."""
    declared = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._:-]+)", content)
    encoding = declared[1].decode() if declared else "utf-8"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif encoding.lower() in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    try:
        text = content.decode(encoding)
    except LookupError:
        raise ValueError(f" not readable: Python knows no encoding {encoding!r}") from None
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f" not readable as {encoding}: {reason}; which encoding has it?") from error
    if "<!ENTITY" in text:
        raise ValueError(" not read: it defines entities, which VOC has not")
    # lines before the declaration stay, so that those in messages are the file's
    return _DECLARATION.sub(lambda match: "\n" * match[0].count("\n"), text, count=1)


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _size(root: ElementTree.Element) -> tuple[float, float] | None:
    try:
        size = float(_text(root, "size/width")), float(_text(root, "size/height"))
    except ValueError:
        return None
    return size if all(map(math.isfinite, size)) and any(size) else None
