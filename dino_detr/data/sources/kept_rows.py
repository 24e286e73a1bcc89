"""Rows of large annotation files, kept from start to start: nothing is parsed while nothing has changed."""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
from datasets import Dataset, config

from ..findings import Finding, Findings
from ..image_files import cache_folder, write_cache

_VERSION = 1  # of what rows and findings are made of a file
_SETTLED = 2  # seconds: what changed later than that may change again without another time of change


class _Record(msgspec.Struct):
    """The file of the rows and its bytes; bytes and time of change of all that they were made of; and the findings."""

    rows: str
    size: int
    stamps: dict[str, tuple[int, int] | None]
    findings: list[Finding]


class KeptRows:
    """
    Finds rows where an earlier start left them, or keeps them for the next.

    Args:
        made_of: texts that, with the files and folders of `keep`, say what the rows are.
    """

    def __init__(self, *made_of: str):
        key = "\0".join([str(_VERSION), str(config.HF_DATASETS_CACHE), *made_of])
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        self.file = cache_folder() / f"rows-{name}.json"
        self.started = time.time()

    def find(self, findings: Findings) -> Dataset | None:
        """Return the rows and add what was found in them; None if there are none, or something has changed."""
        try:
            record = msgspec.json.decode(self.file.read_bytes(), type=_Record)
            if os.stat(record.rows).st_size != record.size or record.stamps != _stamps(record.stamps):
                return None
            rows = Dataset.from_file(record.rows)
        except (OSError, ValueError):
            return None
        for finding in record.findings:
            findings.include(finding)
        return rows

    def keep(self, rows: Dataset, places: Iterable[str | Path], findings: Findings) -> None:
        """
        Keep rows that are in a file of their own, if what they are made of has not changed just now.

        Args:
            places: the files and folders that they depend on.
        """
        stamps = _stamps(map(str, places))
        settled = 10**9 * (self.started - _SETTLED)
        if len(rows.cache_files) != 1 or any(stamp is not None and stamp[1] > settled for stamp in stamps.values()):
            return
        path = rows.cache_files[0]["filename"]
        record = _Record(path, os.stat(path).st_size, stamps, findings.sorted())
        try:
            content = msgspec.json.encode(record)
        except UnicodeEncodeError:  # a file name that is no text
            return
        write_cache(self.file, content, "files are parsed each time")


def _stamps(places: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """Return bytes and time of change of files, and of folders the latter, None where there is none."""
    stamps = {}
    for place in places:
        try:
            status = os.stat(place)
            stamps[place] = (status.st_size, status.st_mtime_ns)
        except OSError:
            stamps[place] = None
    return stamps
