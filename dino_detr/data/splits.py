"""What users call their splits."""

from collections.abc import Iterable
from string import digits

from transformers.utils import logging

logger = logging.get_logger(__name__)

_SYNONYMS = {"valid": "val", "validation": "val", "training": "train"}


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
        raise FileNotFoundError(f"{where} has no split {asked!r}; {found}.")
    logger.warning_once(f"{where} has no split {asked!r}: {alike[0]!r} is taken for it")
    return alike[0]


def _plain(name: str) -> str:
    return _SYNONYMS.get(name.lower(), name.lower())
