"""Names of splits, and parts of them such as `train[:90%]` and `train[90%:]`."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from string import digits

from datasets import ReadInstruction
from transformers.utils import logging

logger = logging.get_logger(__name__)

_SYNONYMS = {"valid": "val", "validation": "val", "training": "train"}
_BOUNDARY = r"(?:([0-9]+(?:\.[0-9]+)?)(%?))?"
_BY_HASH = re.compile(rf"\[hash {_BOUNDARY}:{_BOUNDARY}\]", re.ASCII)


def split_part(split: str) -> tuple[str, str]:
    """Return the name of a split and which part of it is meant, `[...]`, or ""."""
    name, bracket, part = split.partition("[")
    return name, bracket + part


def share_splits(split: str, val_share: float) -> tuple[str, str]:
    """Return what of a split to train on and what to evaluate on, this share of it, images chosen by their names."""
    percent = f"{100 * val_share:.10g}%"
    return f"{split}[hash {percent}:]", f"{split}[hash :{percent}]"


def choose_part(part: str, keys: Sequence[str], split: str) -> range | list[int]:
    """Return the positions of the images that are a part of a split, in their order.

    Args:
        part: in the notation of `datasets`, `[:90%]` or `[100:200]`, in the order of the data set; or `[hash :10%]` and
            `[hash 10%:]`, in the order of a hash of the keys, so that it does not matter in which order images come.
            What ends where the other begins has no image in common with it.
        keys: a name of each image.
        split: as it was asked for, for messages.

    Raises:
        ValueError: it is no such notation, or the part is empty.
    """
    if match := _BY_HASH.fullmatch(part):
        chosen = _choose_by_hash(match, keys)
    else:
        try:
            (span,) = ReadInstruction.from_spec(f"split{part}").to_absolute({"split": len(keys)})
        except (ValueError, AssertionError) as error:
            raise ValueError(
                f"split {split!r} is not understood: a part of a split is {split_part(split)[0]}[:75%] or "
                f"{split_part(split)[0]}[75%:], say"
            ) from error
        chosen = range(span.from_ or 0, len(keys) if span.to is None else span.to)
    if not len(chosen):
        raise ValueError(f"split {split!r} has no image: there are {len(keys)} in the whole of it")
    return chosen


def choose_split(asked: str, available: Iterable[str], where) -> str:
    """The one of the `available` splits that is meant.

    That of the name asked for; without one, the only one of its synonyms (`val`, `valid`, `validation`; `train`,
    `training`), or else of these followed by a year (`val2017`), and a line says so.

    Raises:
        FileNotFoundError: there is none, or several synonyms; the message says what `where` has.
    """
    available = sorted(available)
    if asked in available:
        return asked
    alike = [name for name in available if _plain(name) == _plain(asked)]
    alike = alike or [name for name in available if _plain(name.rstrip(digits)) == _plain(asked)]
    if len(alike) != 1:
        found = f"it has {', '.join(available)}" if available else "it has none"
        hint = f" {how_to_share(available[0])}" if len(available) == 1 else ""
        raise FileNotFoundError(f"{where} has no split {asked!r}; {found}.{hint}")
    logger.warning_once(f"{where} has no split {asked!r}: {alike[0]!r} is taken for it")
    return alike[0]


def how_to_share(split: str) -> str:
    """Say what to type to train on a part of the only split and evaluate on the rest."""
    return (
        f"To train on a part of {split} and evaluate on the rest: --val_share 0.2, or --train_split "
        f'"{split}[:80%]" --eval_split "{split}[80%:]"'
    )


def is_usual_split(name: str) -> bool:
    """Tell whether a folder of this name is likely to hold a split's images."""
    return _plain(name.rstrip(digits)) in ("train", "val", "test")


def _choose_by_hash(match: re.Match, keys: Sequence[str]) -> list[int]:
    hashes = [hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest() for key in keys]
    order = sorted(range(len(keys)), key=lambda index: hashes[index])
    start, end = (_boundary(match[number], match[number + 1], order, hashes) for number in (1, 3))
    return sorted(order[0 if start is None else start : end])


def _boundary(number: str | None, percent: str, order: list[int], hashes: list[bytes]) -> int | None:
    """Return where a part begins or ends in the order of the hashes, never between two of one hash."""
    if number is None:
        return None
    cut = round(float(number) * len(order) / 100 if percent else float(number))
    between = (at for at in range(1, len(order)) if hashes[order[at]] != hashes[order[at - 1]])
    return min(between, key=lambda at: abs(at - cut), default=len(order))


def _plain(name: str) -> str:
    return _SYNONYMS.get(name.lower(), name.lower())
