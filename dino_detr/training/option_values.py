"""Values of options, as YAML, the command line and Python write them, read as what the option is."""

import json
import os
from enum import Enum
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def kinds_of(annotation: Any) -> list:
    """Return what a value may be: the members of a union (or of `Annotated`), else the annotation; None is left out."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [kind for member in get_args(annotation) for kind in kinds_of(member)]
    return [] if annotation is type(None) else [annotation]


def is_switch(annotation: Any) -> bool:
    return bool in kinds_of(annotation)


def read_value(value: Any, annotation: Any) -> Any:
    """
    Return `value` as what `annotation` says.

    Numbers and truth values may be text (`1e-4` is text in YAML 1.1), one value may stand for a list of one, and JSON
    for a mapping.

    Raises:
        ValueError: if that is not clear. The message says what the value should be.
    """
    kinds = kinds_of(annotation)
    if value is None:
        if type(None) in get_args(annotation):
            return None
        raise ValueError("it has no value")
    for kind in sorted(kinds, key=_order):
        if kind is bool and int in kinds and not isinstance(value, bool) and str(value).strip().isdigit():
            continue  # a number, where either may be meant
        try:
            return _READERS[_group(kind)](value, kind)
        except _NotThis:
            continue
    raise ValueError(f"{_show(value)} is not {' or '.join(dict.fromkeys(_describe(kind) for kind in kinds))}")


class _NotThis(Exception):
    """A value is not of the kind that was tried."""


def _read_switch(value: Any, kind: Any) -> bool:
    text = str(value).lower() if isinstance(value, (bool, int, str)) else None
    if text not in _TRUTH:
        raise _NotThis
    return _TRUTH[text]


def _read_whole(value: Any, kind: Any) -> int:
    number = _read_number(value, kind)
    if number != number or number in (float("inf"), float("-inf")) or number != int(number):
        raise _NotThis
    return int(number)


def _read_number(value: Any, kind: Any) -> float | int:
    if isinstance(value, bool):
        raise _NotThis
    if isinstance(value, Integral):
        return int(value) if kind is int else float(value)
    if isinstance(value, Real):
        return float(value)
    try:
        if not isinstance(value, str):
            raise _NotThis
        return int(value) if kind is int and value.strip().lstrip("+-").isdigit() else float(value)
    except ValueError as error:
        raise _NotThis from error


def _read_list(value: Any, kind: Any) -> list:
    (item,) = get_args(kind) or (Any,)
    if isinstance(value, str):
        if item is str:  # a text may stand for a list; which it is, transformers sees
            raise _NotThis
        value = [part for part in value.strip().strip("[]").replace(",", " ").split() if part]
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    try:
        return [read_value(part, item) for part in values]
    except ValueError as error:
        raise _NotThis from error


def _read_mapping(value: Any, kind: Any) -> dict:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{value!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _NotThis
    return value


def _read_choice(value: Any, kind: Any) -> Any:
    choices = _choices(kind)
    if value is False and "no" in choices:  # as YAML 1.1 reads `no`
        return "no"
    if isinstance(value, Enum):
        value = value.value
    if value not in choices:
        raise ValueError(f"{_show(value)} is not one of {', '.join(map(str, choices))}")
    return value


def _read_text(value: Any, kind: Any) -> str:
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):  # a split or a folder named by a year
        return str(value)
    raise _NotThis


def _read_object(value: Any, kind: Any):
    if isinstance(kind, type) and not isinstance(value, kind):
        raise _NotThis
    return value


# From the narrowest, which is tried first, to the widest.
_READERS = {
    "choice": _read_choice, "switch": _read_switch, "mapping": _read_mapping, "list": _read_list,
    "whole": _read_whole, "number": _read_number, "text": _read_text, "object": _read_object,
}  # fmt: skip


def _group(kind: Any) -> str:
    plain = {bool: "switch", int: "whole", float: "number", str: "text"}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        return "choice" if _choices(kind) != [False] else "switch"
    origin = get_origin(kind) or kind
    return {dict: "mapping", list: "list"}.get(origin, "object")


def _order(kind: Any) -> int:
    return list(_READERS).index(_group(kind))


def _choices(kind: Any) -> list:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [member.value for member in kind.__members__.values()]
    return list(get_args(kind))


def _describe(kind: Any) -> str:
    group = _group(kind)
    if group == "list":
        (item,) = get_args(kind) or (Any,)
        return {"whole": "a list of whole numbers", "number": "a list of numbers"}.get(_group(item), "a list")
    named = {"switch": "true or false", "mapping": "a mapping", "whole": "a whole number", "number": "a number"}
    return named.get(group, "text")


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
