"""The files of a data set of another form: each is used, or named in the end."""

import codecs
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ..image_files import IMAGE_SUFFIXES

SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}  # in lists and keys
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLITS |= {"test": "test", "testing": "test"}
_KINDS = ("images", "labels", "jpegimages", "data")  # folders of these names say nothing of what is meant
# What tools and systems leave that holds no annotations, by its full name: told of in a note, no problem
_ASIDE = re.compile(
    r"\._.*|\.DS_Store|\.git\w*|\.svn|\.hg|\.ipynb_checkpoints|__MACOSX|__pycache__|Thumbs\.db|desktop\.ini"
    r"|README(\.\w+)?\.txt|README|LICEN[CS]E|.*\.(md|cache)"
    r"|notes\.json|labelmap\.txt|Segmentation(Class|Object)\w*",  # Label Studio's, CVAT's and VOC's
    re.IGNORECASE,
)


class SourceFiles:
    """
    The files below some folders, by where they are and by how others write their names.

    A reader says which files it has used or reported; `name_rest` names all others, so that none is left out silently.

    Args:
        roots: folders; those within another one add nothing.
    """

    def __init__(self, roots: Iterable[Path]):
        self.roots: list[Path] = []
        for root in map(_absolute, roots):
            if not any(root.is_relative_to(other) for other in self.roots):
                self.roots = [*(other for other in self.roots if not other.is_relative_to(root)), root]
        self.problems: list[str] = []
        self.paths: list[Path] = []
        self._visible: list[Path] = []
        self._aside: list[Path] = []
        self._seen: set[Path] = set()
        self._by_spelling: dict[str, list[Path]] = defaultdict(list)
        self._respelled: list[tuple[str, Path]] = []
        self._stems: dict[Path, dict[str, list[Path]]] = {}
        for root in self.roots:
            self._walk(root)

    def images(self, folder: Path | None = None) -> list[Path]:
        """Return the files below a folder, but for hidden ones, that have an image's suffix; None: below the roots."""
        if folder is None:
            return [path for path in self._visible if is_image(path)]
        folder = _absolute(folder)
        if any(folder.is_relative_to(root) for root in self.roots):
            return [path for path in self._visible if path.is_relative_to(folder) and is_image(path)]
        return SourceFiles([folder]).images()

    def of_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files of these suffixes, given in lower case, whatever their own case, but for hidden ones."""
        return [path for path in self._visible if path.suffix.lower() in suffixes]

    def use(self, path: Path) -> None:
        """Say that a file has been read, as a label file or a list, or that a problem names it."""
        self._seen.add(_absolute(path))

    def report(self, path: Path, what: str) -> None:
        """Name a file as a problem."""
        self.use(path)
        self.problems.append(f"{path}: {what}")

    def find(self, written: str, folders: Iterable[Path]) -> Path | None:
        """
        Return the file or folder that a data set names as `written`, relative to one of the folders.

        Quotes, backslashes and `%20` are understood, and another case of the letters if that is one file only. Where
        there is none, leading folders are left out one by one, as tools write those of the machine they ran on. A note
        says so.
        """
        folders = [*folders, *self.roots]
        text = written.strip().strip("\ufeff\"'").strip()
        spellings = dict.fromkeys([text, text.replace("\\", "/"), unquote(text), unquote(text).replace("\\", "/")])
        for spelling in filter(None, spellings):
            parts = [part for part in PurePosixPath(spelling).parts if part not in ("/", ".", "..")]
            shorter = ["/".join(parts[start:]) for start in range(len(parts))]
            telling = [tail for tail in shorter if tail.lower() not in _KINDS or tail == shorter[0]]
            for candidate in (spelling, *telling):
                for folder in folders:
                    found = self._find_exactly(folder, candidate)
                    if found is not None:
                        if not str(found).endswith("/".join(parts)):
                            self._respelled.append((text, found))
                        return found
        return None

    def of_stem(self, folder: Path, stem: str, suffixes: Iterable[str]) -> list[Path]:
        """Return the files of a folder that are called `stem`, with one of these suffixes in whatever case."""
        folder = _absolute(folder)
        if folder not in self._stems:
            self._stems[folder] = _files_by_stem(folder)
        found = [path for path in self._stems[folder].get(stem, []) if path.suffix.lower() in suffixes]
        return sorted(found, key=lambda path: (path.suffix != path.suffix.lower(), path.name))

    def split_of(self, path: Path) -> str | None:
        """Return the split that one of the folders of a file is called after, from the root on: `train2017`, say."""
        root = next(root for root in self.roots if path.is_relative_to(root))
        for part in path.relative_to(root).parts[:-1]:
            name = re.sub(r"^obj_(.*)_data$", r"\1", part.lower())  # CVAT's
            split = _SPLITS.get(name) or _SPLITS.get(name.rstrip("0123456789_-"))
            if split:
                return split
        return None

    def by_split(self, paths: Iterable[Path]) -> dict[str, list[Path]]:
        """Return the files of each split, in the order of `SPLIT_NAMES`, without those of no split."""
        found: dict[str, list[Path]] = {split: [] for split in SPLIT_NAMES}
        for path in paths:
            if (split := self.split_of(path)) is not None:
                found[split].append(path)
        return {split: files for split, files in found.items() if files}

    def name_rest(self, used: Iterable[Path], reasons: dict[str, str]) -> tuple[list[str], list[str]]:
        """
        Name what nobody has used or reported.

        Args:
            used: files used beside those of `use`: the images of the data set.
            reasons: what to say, by suffix in lower case; "image" for image files, "" for any other.

        Returns:
            Problems, and notes on files that hold no annotations.
        """
        seen = self._seen | {_absolute(path) for path in used}
        problems = []
        for path in self.paths:
            if path not in seen:
                kind = "image" if is_image(path) else path.suffix.lower()
                problems.append(f"{path}: {reasons.get(kind, reasons[''])}")
        names = [str(path.relative_to(self.roots[0])) for path in self._aside if path.is_relative_to(self.roots[0])]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        notes = [f"not looked into: {', '.join(names[:5])}{more}"] if names else []
        if self._respelled:
            written, path = self._respelled[0]
            notes.append(f"{len(self._respelled)} files are called otherwise than written: {written} is {path}, say")
        return problems, notes

    def _walk(self, root: Path) -> None:
        visited = set()
        walk = os.walk(
            root, followlinks=True, onerror=lambda error: self.report(Path(error.filename), str(error.strerror))
        )
        for place, folders, names in walk:
            real = os.path.realpath(place)
            if real in visited:  # a link that leads back
                folders.clear()
                continue
            visited.add(real)
            folder = Path(place)
            self._aside += [folder / name for name in sorted([*folders, *names]) if _ASIDE.fullmatch(name)]
            folders[:] = sorted(name for name in folders if not _ASIDE.fullmatch(name))
            files = [folder / name for name in sorted(names) if not _ASIDE.fullmatch(name)]
            hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
            for path in files:
                if path.is_file():
                    self.paths.append(path)
                    self._visible += [] if hidden or path.name.startswith(".") else [path]
                else:
                    self.report(path, "not a file that can be read: a pipe, or a link to nothing")
            for path in (*files, *(folder / name for name in folders)):
                self._by_spelling[str(path).casefold()].append(path)

    def _find_exactly(self, folder: Path, written: str) -> Path | None:
        path = os.path.normpath(os.path.join(_absolute(folder), written))
        if os.path.exists(path):
            return Path(path)
        alike = self._by_spelling.get(path.casefold(), [])
        return alike[0] if len(alike) == 1 else None


def is_image(path: Path) -> bool:
    """Return whether Pillow reads files of this suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8 or, with a byte order mark, UTF-16; other bytes stay as in file names."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="surrogateescape")


def printable(text: str) -> str:
    """Return a text that can be printed and written as UTF-8, whatever bytes its file names have."""
    return text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    found = defaultdict(list)
    if os.path.isdir(folder):
        for entry in os.scandir(folder):
            if entry.is_file():
                found[Path(entry.name).stem].append(folder / entry.name)
    return found
