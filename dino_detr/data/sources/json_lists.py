"""A JSON object whose lists are read in pieces: files of many gigabytes never are in memory as a whole."""

import codecs
import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

PIECE = 2**23  # bytes that are decoded together
_TRIED_FIRST, _TRIED = 3, 50  # places where a piece may end, before the list's end is looked for, or it taken larger
_BETWEEN = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_SPACE = re.compile(rb"[ \t\r\n]*")
_NOT_OF_JSON = (b"NaN", b"Infinity")  # but Python writes and reads them
_RAW = msgspec.json.Decoder(list[msgspec.Raw])


class Span(NamedTuple):
    """Bytes of a file, which are entries of a list with commas between them."""

    start: int
    end: int


class JsonList:
    """
    A list in a JSON file, read anew, piece by piece, each time that it is gone through.

    Args:
        file: in UTF-8.
        spans: where its entries are.
        form: of the entries: which of their fields are read, if they have that form; else all are.
    """

    def __init__(self, file: Path, spans: list[Span], form: Any = Any):
        self.file, self.spans, self.form = file, spans, form

    def __iter__(self) -> Iterator[Any]:
        for text in self.texts():
            yield from self.decode(text)

    def texts(self) -> Iterator[bytes]:
        """Return the JSON of some entries at a time, as a list."""
        with open(self.file, "rb") as file:
            for start, end in self.spans:
                file.seek(start)
                yield b"[%b]" % file.read(end - start)

    def decode(self, text: bytes) -> list:
        """Return the entries of one of the texts."""
        return decode_json(text, list[self.form])


def index_json(file: Path, forms: dict[str, Any]) -> dict[str, Any]:
    """
    Return what the object in a JSON file holds, of each of its lists only where it is.

    Args:
        forms: of the entries of lists, by name, as `JsonList` takes them.

    Raises:
        ValueError: it is no object in UTF-8, is damaged, or has two values of one name.
    """
    with open(file, "rb") as opened:
        scanner = _Scanner(opened)
        content = {}
        at = scanner.skip(scanner.start(), b"{")
        if scanner.after_space(at) == b"}":
            at = scanner.skip(at, b"}")
        else:
            sign = b","
            while sign == b",":
                name, at = scanner.read_value(at)
                if not isinstance(name, str) or name in content:
                    raise ValueError(f"{name!r} is no name, or there twice, before byte {at}")
                at = scanner.skip(at, b":")
                if scanner.after_space(at) == b"[":
                    spans, at = scanner.read_spans(scanner.skip(at, b"["))
                    content[name] = JsonList(file, spans, forms.get(name, Any))
                else:
                    content[name], at = scanner.read_value(at)
                sign = scanner.after_space(at)
                at = scanner.skip(at, b",", b"}")
        if scanner.after_space(at):
            raise ValueError(f"there is more after its end, byte {at}")
    return content


def decode_json(text: bytes, form: Any = Any) -> Any:
    """
    Return what JSON in UTF-8 holds.

    Args:
        form: of which fields are read, if it has that form; else all are.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    try:
        return msgspec.json.decode(text, type=form)
    except (msgspec.MsgspecError, RecursionError):
        # NaN, which Python writes though JSON has no such thing; thousands of digits; or another form
        return json.loads(text, parse_int=_whole)


class _Scanner:
    """Finds the values of an object. Places are counted in bytes; what is read at one may follow white space."""

    def __init__(self, file: Any):
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.decoder = json.JSONDecoder(parse_int=_whole)

    def start(self) -> int:
        encoding = json.detect_encoding(self.read(0, 4))
        if encoding not in ("utf-8", "utf-8-sig"):
            raise ValueError(f"it is {encoding}: save it as UTF-8")
        return len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0

    def read(self, at: int, size: int) -> bytes:
        self.file.seek(at)
        return self.file.read(size)

    def after_space(self, at: int) -> bytes:
        """Return the byte that follows white space, b"" at the end of the file."""
        at = self._skip_space(at)
        return self.read(at, 1)

    def skip(self, at: int, *signs: bytes) -> int:
        """Return where what follows one of the signs begins."""
        at = self._skip_space(at)
        if self.read(at, 1) not in signs:
            raise ValueError(f"{b' or '.join(signs).decode()} is missing at byte {at}")
        return at + 1

    def read_value(self, at: int) -> tuple[Any, int]:
        """Return a value and where it ends."""
        at, size = self._skip_space(at), 2**12
        while True:
            buffer = self.read(at, size)
            found = self._decode_start(buffer)
            is_whole = at + len(buffer) == self.size
            if found is not None and (is_whole or found[1] < len(buffer)):  # else a number may go on
                return found[0], at + found[1]
            if is_whole:
                raise ValueError(f"a value is cut or damaged at byte {at}")
            size *= 2

    def read_spans(self, at: int) -> tuple[list[Span], int]:
        """Return where the entries of a list are, which is open, and where the list ends."""
        spans = []
        while True:
            at, size = self._skip_space(at), PIECE
            while True:
                buffer = self.read(at, size)
                ends = _ends_of_entries(buffer)
                end = next(filter(None, islice(ends, _TRIED_FIRST)), None)
                if end is None and (rest := self._decode_start(b"[" + buffer)):
                    end_of_list = at + rest[1] - 1
                    return [*spans, Span(at, end_of_list - 1)], end_of_list
                if end := end or next(filter(None, islice(ends, _TRIED)), None):
                    spans.append(Span(at, at + end.start() + 1))
                    at += end.end()
                    break
                if at + len(buffer) == self.size:
                    raise ValueError(f"a list is cut or damaged at or after byte {at}")
                size *= 2

    def _decode_start(self, buffer: bytes) -> tuple[Any, int] | None:
        """Return a value that begins the buffer, and where it ends, if it does."""
        text = codecs.getincrementaldecoder("utf-8")().decode(buffer)  # without a character that is cut
        try:
            value, end = self.decoder.raw_decode(text)
        except (json.JSONDecodeError, RecursionError):
            return None
        return value, len(text[:end].encode())

    def _skip_space(self, at: int) -> int:
        while True:
            buffer = self.read(at, 256)
            match = _SPACE.match(buffer)
            end = match.end() if match else 0
            if end < len(buffer) or not buffer:
                return at + end
            at += end


def _ends_of_entries(buffer: bytes) -> Iterator[re.Match[bytes] | None]:
    """
    Return where an entry of a list ends and another follows, from the last, and None for a place that only looks so.

    Args:
        buffer: begins with an entry.
    """
    at = buffer.rfind(b"}")
    while at >= 0:
        if match := _BETWEEN.match(buffer, at):
            yield match if _is_list(b"[%b]" % buffer[: at + 1]) else None  # within an entry, or beyond the list
        at = buffer.rfind(b"}", 0, at)


def _is_list(text: bytes) -> bool:
    try:
        if not text.isascii():
            text.decode()
        _RAW.decode(text)
    except UnicodeDecodeError:
        raise
    except (msgspec.MsgspecError, RecursionError):
        if not any(word in text for word in _NOT_OF_JSON):
            return False
        try:
            json.loads(text, parse_int=_whole)
        except (json.JSONDecodeError, RecursionError):
            return False
    return True


def _whole(digits: str) -> int | float:
    """Return a whole number; of more digits than Python reads, infinity, which no field can be."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)
