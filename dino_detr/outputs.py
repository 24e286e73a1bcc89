"""Where verbs write: refused before the work if something is there, or if nothing can be written."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def claim_files(**outputs: str | Path | None) -> None:
    """
    Check the files that a verb will write, before its work.

    Args:
        outputs: path by option name; None: the option was not given.

    Raises:
        FileExistsError: if one of them exists, or two are the same file.
        OSError: if its folder cannot be made or written to.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        path = Path(path)
        if os.path.lexists(path) and not _is_a_stream(path):  # a link to nowhere too: nothing is written through it
            raise FileExistsError(f"{path} exists; choose another --{option}")
        if other := seen.get(path.resolve()):
            raise FileExistsError(f"--{other} and --{option} are both {path}; choose another --{option}")
        seen[path.resolve()] = option
        if not _is_a_stream(path):
            check_writable(path.parent, option)


def claim_folder(folder: str | Path, option: str = "output") -> None:
    """
    Check the folder that a verb will fill, before its work.

    Raises:
        FileExistsError: if it exists and is not an empty folder.
        OSError: if it cannot be made or written to.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder; choose another --{option}")
    check_writable(folder, option)


@contextmanager
def fill_folder(folder: str | Path) -> Iterator[Path]:
    """
    Give an empty folder to fill. It becomes `folder`, which `claim_folder` has checked, when the block ends without an
    error; after an error nothing of it is left.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside:
        filled = Path(beside) / folder.name
        filled.mkdir()
        yield filled
        if folder.is_dir():
            folder.rmdir()
        filled.rename(folder)


def check_writable(folder: Path, option: str) -> None:
    """Check that a folder, or the nearest that exists above it, can be written to; nothing is left there."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise type(error)(f"--{option}: cannot write to {folder} ({error.strerror}); choose another") from error


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON into a file that `claim_files` has checked. One that has come to be meanwhile is left as it is."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w" if _is_a_stream(path) else "x", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def _is_a_stream(path: Path) -> bool:
    """Whether a path is `/dev/stdout`, a pipe or the like."""
    return path.is_fifo() or path.is_char_device()
