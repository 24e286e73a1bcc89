"""Numbers as annotation tools write them: also as text, in which they are read where it can mean nothing else."""

import itertools
import json
import math
import re
from collections.abc import Iterable
from typing import Any

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
_WHOLE = re.compile(r"([+-]?[0-9]+)(\.0*)?", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_LONGEST_TEXT = 100  # of a number
_LONGEST_SHOWN = 120  # of a value in a message


def read_whole(value: object) -> int | None:
    """Return the whole number that a value is (3, 3.0, "3", "0003", "3.0"); None if it is none, or beyond 63 bits."""
    if isinstance(value, str):
        text = value.strip()
        match = _WHOLE.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
        value = int(match[1]) if match else read_number(text)
    else:
        value = _plain(value)
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def read_number(value: object) -> float | None:
    """Return the number that a value is, as it is or as text, NaN and infinities too; None if it is none."""
    if isinstance(value, str):
        text = value.strip()
        like_one = len(text) <= _LONGEST_TEXT and (_NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text))
        return float(text) if like_one else None
    value = _plain(value)
    if isinstance(value, float):
        return value
    if type(value) is not int:
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def read_flag(value: object) -> int | None:
    """Return the 0 or 1 that a value is, of true and false as well, also as text; None if it is neither."""
    value = _plain(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return int(value.strip().lower() == "true")
    number = read_whole(value)
    return number if number in (0, 1) else None


def read_box(value: Any) -> list[float] | None:
    """Return the four numbers that a value is, a list of them or its JSON text; None if it is no such list."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if len(value) <= 5 * _LONGEST_TEXT else None
        except (ValueError, RecursionError):
            return None
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    numbers = [number for number in map(read_number, value) if number is not None]
    return numbers if len(numbers) == 4 else None


def is_text(value: object) -> bool:
    """Tell whether a number, or any number of a list, is written as text."""
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and any(isinstance(side, str) for side in value))


def shown(value: object) -> str:
    """Return a value as it is to be read in a message: text in quotes, nothing longer than a line."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates cannot be printed
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


class Ids:
    """
    How the ids of one list are to be read: as numbers; as names where they are text that says none.

    Where numbers written as text would become one ("1" and "01"), all that is text is names.

    Args:
        values: the ids as the list has them.
    """

    def __init__(self, values: Iterable[object]):
        texts = {value for value in values if type(value) is str}
        numbers = [number for number in map(read_whole, texts) if number is not None]
        self._text_is_names = len(set(numbers)) < len(numbers)

    def read(self, value: object) -> int | str | None:
        """Return the id that a value is; None if it can be none: absent, a fraction, a list, beyond 63 bits."""
        if isinstance(value, str):
            number = None if self._text_is_names else read_whole(value)
            return number if number is not None else value.strip() or None
        return read_whole(value)


def number_ids(ids: Iterable[int | str]) -> dict[int | str, int]:
    """Return a number for each id: numbers their own, names those after the largest, in alphabetical order."""
    ids = list(ids)
    numbers = {id_: id_ for id_ in ids if isinstance(id_, int)}
    names = sorted(id_ for id_ in ids if isinstance(id_, str))
    largest = max(numbers, default=0)
    free = (
        number for number in itertools.count(max(largest, 0) + 1 if largest < 2**62 else 1) if number not in numbers
    )
    return numbers | dict(zip(names, free))


def _plain(value: Any) -> Any:
    """Python's own number of a numpy scalar or a tensor of one."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # more than one
        return value
