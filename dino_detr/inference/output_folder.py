"""The folder that `predict` fills: nothing of the user's there is replaced, only what an earlier call wrote."""

import json
from collections import Counter
from pathlib import Path

from ..outputs import check_writable

DETECTIONS, RESULTS = "detections.json", "results.json"  # what `predict` writes beside the pictures


def claim_output(output: Path, overwrite: bool) -> set[str]:
    """
    Check the output folder. Returns the pictures that an earlier predict wrote there, which may be replaced.

    Raises:
        FileExistsError: if it holds results already and `overwrite` is not given.
    """
    check_writable(output, "output")
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; choose another --output")
    there = [name for name in (DETECTIONS, RESULTS) if (output / name).exists()]
    if not there:
        return set()
    if not overwrite:
        raise FileExistsError(f"{output} holds detections already: choose another --output, or give --overwrite")
    try:
        former = _pictures_of(json.loads((output / DETECTIONS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"--overwrite: {output / DETECTIONS} is not predict's; choose another --output") from error
    return former


def name_pictures(stems: list[str], taken: set[str]) -> list[str]:
    """Return a name for the picture of each image: different from one another and, in any case, from those taken."""
    count = Counter(stem.casefold() for stem in stems)
    taken = {name.casefold() for name in taken}
    plain = {f"{stem}.jpg" for stem, times in count.items() if times == 1}  # for those who ask for them alone
    numbers, names = Counter(), []
    for stem in stems:
        key, name = stem.casefold(), f"{stem}.jpg"
        while name.casefold() in taken or (count[key] > 1 and (not numbers[key] or name.casefold() in plain)):
            numbers[key] += 1
            name = f"{stem}_{numbers[key]}.jpg"
        taken.add(name.casefold())
        names.append(name)
    return names


def _pictures_of(entries: list[dict]) -> set[str]:
    """
    Return the pictures that a `detections.json` names.

    Raises:
        ValueError, TypeError, KeyError: if it is not one that predict wrote.
    """
    if not isinstance(entries, list) or any(type(entry["detections"]) is not list for entry in entries):
        raise ValueError("no list of detections")
    pictures = {entry["picture"] for entry in entries} - {None}
    return {name for name in pictures if Path(name).name == name}
