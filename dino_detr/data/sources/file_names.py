"""Image files by the names that annotation tools give them.

A name that no file has as it is written may be one of another system or tool: with backslashes, percent signs, letters
in another case or accents in another form, or below a folder (a project's, a drive's, a server's) that is not here. The
file is taken where just one fits.
"""

import difflib
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

_MOST_LISTED = 500_000  # entries of folders, in looking for what names may mean
_MOST_COMPARED = 1000  # names, letter by letter


class Found(NamedTuple):
    """The file of a name, or None and what is there instead; and whether it is spelled otherwise."""

    path: str | None
    respelled: bool = False
    hint: str = ""


class ImageFiles:
    """
    Finds the files that an annotation file names.

    Args:
        folder: that names are relative to.
        root: the data set's folder.
        places: where else a file may be whose name is spelled otherwise.
        anywhere: of `search_folder`, where images are in none of the usual places.
    """

    def __init__(
        self, folder: Path, root: Path, places: Sequence[Path] = (), anywhere: dict[str, list[str]] | None = None
    ):
        self.folder, self.root = os.path.abspath(folder), os.path.abspath(root)
        self._anywhere = {} if anywhere is None else anywhere
        self._places = list(dict.fromkeys([self.folder, *map(os.path.abspath, places)]))
        self._listings: dict[str, dict[str, list[str]]] = {}

    @property
    def folders(self) -> list[str]:
        """The folders whose entries were looked through."""
        walked = os.walk(self.root) if self._anywhere else ()
        return [*self._listings, *(folder for folder, _, _ in walked)]

    def find_all(self, names: Sequence[str]) -> list[Found]:
        """
        Find the file of each name: as it is written, else spelled otherwise.

        A file of another spelling is taken where it is the only one that fits, and only for one name.
        """
        paths = [os.path.join(self.folder, name) for name in names]
        there = [os.path.isfile(path) for path in paths]
        if all(there):
            return [Found(path) for path in paths]
        fitting = {name: self.fitting(name) for name in {name for name, is_there in zip(names, there) if not is_there}}
        taken = {os.path.abspath(path) for path, is_there in zip(paths, there) if is_there}
        meant = Counter(options[0] for options in fitting.values() if len(options) == 1)
        found = []
        for name, path, is_there in zip(names, paths, there):
            if is_there:
                found.append(Found(path))
            elif len(fitting[name]) == 1 and meant[fitting[name][0]] == 1 and fitting[name][0] not in taken:
                found.append(Found(fitting[name][0], respelled=True))
            else:
                found.append(Found(None, hint=self._hint(name, fitting[name])))
        return found

    def fitting(self, name: str) -> list[str]:
        """Return the files that a name can mean, by the longest of its ends that any file has."""
        parts = _parts(name)
        for start in range(len(parts)):
            found = {path for place in self._places for path in self._resolve(place, parts[start:])}
            if found:
                return sorted(found)
        options = self._anywhere.get(parts[-1], []) if parts else []
        in_common = [count_common_end(parts, [_plain(part) for part in _split(path)]) for path in options]
        return [path for path, count in zip(options, in_common) if count == max(in_common)]

    def _hint(self, name: str, fitting: list[str]) -> str:
        """Why none of the fitting files was taken; or, where none fits, which one has another suffix."""
        there = [repr(os.path.relpath(path, self.root)) for path in fitting]
        if len(there) == 1:
            return f"{there[0]} is there, but other entries mean it too"
        if there:
            return f"{' and '.join(there[:3])} are there: it is not clear which is meant"
        parts = _parts(name)
        stem = os.path.splitext(parts[-1])[0] if parts else ""
        stems = {os.path.splitext(entry)[0]: entries[0] for entry, entries in self._list(self.folder).items()}
        return f"{stems[stem]!r} is there" if stem and stem in stems else ""

    def is_outside(self, path: str) -> bool:
        """Tell whether a path leads out of the data set's folder, where nobody would look for its images."""
        path = os.path.abspath(path)
        if _is_within(path, self.root):
            return False
        return not _is_within(os.path.realpath(path), os.path.realpath(self.root))

    def _resolve(self, place: str, parts: list[str]) -> list[str]:
        """The files under a folder that these parts of a path can mean."""
        # unpacked from another system's archive, a file may have the whole path as its name
        whole = self._list(place).get("/".join(parts), []) if len(parts) > 1 else []
        folders = [place]
        for part in parts[:-1]:
            folders = [os.path.join(folder, entry) for folder in folders for entry in self._list(folder).get(part, [])]
        paths = [os.path.join(folder, entry) for folder in folders for entry in self._list(folder).get(parts[-1], [])]
        return [path for path in [os.path.join(place, entry) for entry in whole] + paths if os.path.isfile(path)]

    def _list(self, folder: str) -> dict[str, list[str]]:
        """The entries of a folder by what they all may be called."""
        if folder not in self._listings:
            try:
                entries = os.listdir(folder)
            except OSError:  # none, or not to be read
                entries = []
            listing = self._listings[folder] = {}
            for entry in entries:
                listing.setdefault(_plain("/".join(_split(entry))), []).append(entry)
        return self._listings[folder]


def search_folder(root: Path, avoid: Iterable[str]) -> dict[str, list[str]]:
    """
    Look through a data set's folder, where the usual places have none of the images.

    Args:
        avoid: names of folders that are other splits'.

    Returns:
        The files by what their names are compared by.
    """
    found, avoid, count = {}, set(avoid), 0
    for folder, inner, files in os.walk(os.path.abspath(root)):
        inner[:] = sorted(name for name in inner if name not in avoid)
        for file in sorted(files):
            found.setdefault(_plain(file), []).append(os.path.join(folder, file))
        count += len(files) + len(inner)
        if count > _MOST_LISTED:
            break
    return found


def find_alike(name: str, files: dict[str, list[str]], root: Path) -> str:
    """Say what is there that a name may mean: a file with another suffix, or one that is spelled nearly so; or ""."""
    parts = _parts(name)
    name = parts[-1] if parts else ""
    stem, _ = os.path.splitext(name)
    same = [other for other in files if stem and os.path.splitext(other)[0] == stem]
    close = same or difflib.get_close_matches(name, list(files)[:_MOST_COMPARED], n=1)
    return f"{os.path.relpath(files[close[0]][0], root)!r} is there" if close else ""


def count_common_end(parts: Sequence[str], others: Sequence[str]) -> int:
    """Return how many of the last parts of two paths are the same."""
    pairs = zip(reversed(parts), reversed(others))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _parts(name: str) -> list[str]:
    """The parts of a name as they are compared, without a server, a drive or steps upwards."""
    name = re.sub(r"^.*[?&]d=", "", name)  # Label Studio's /data/local-files/?d=folder/a.jpg
    if re.match(r"https?://", name, re.IGNORECASE):
        name = re.split(r"[?#]", name)[0]  # what follows may be a signature, say
    name = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]+://[^/\\]*", "", name)
    name = re.sub(r"^[A-Za-z]:(?=[/\\])", "", name)
    return [_plain(part) for part in _split(name)]


def _split(path: str) -> list[str]:
    return [part for part in unquote(path).replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _plain(part: str) -> str:
    return unicodedata.normalize("NFC", unquote(part)).casefold()


def _is_within(path: str, folder: str) -> bool:
    return path.startswith(folder if folder.endswith(os.sep) else folder + os.sep)
