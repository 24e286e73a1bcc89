"""The files of a checkpoint, whether it is a folder or on the Hub."""

from pathlib import Path

from transformers.utils.hub import cached_file


def find_file(checkpoint: str | Path, name: str) -> Path | None:
    """
    Return a file of a checkpoint; None if it has no such file, or the Hub cannot be reached and the cache lacks it.

    Args:
        checkpoint: folder or Hub id.
    """
    if Path(checkpoint).is_dir():
        file = Path(checkpoint) / name
        return file if file.is_file() else None
    try:
        file = cached_file(str(checkpoint), name)
    except OSError:
        return None
    return None if file is None else Path(file)
