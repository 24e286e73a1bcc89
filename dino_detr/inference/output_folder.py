"""The folder that `predict` fills: nothing of the user's there is replaced, only what an earlier call wrote."""

import json
from collections import Counter
from pathlib import Path

from ..outputs import check_writable

DETECTIONS, RESULTS = "detections.json", "results.json"  # what `predict` writes beside the pictures


def claim_output(output: Path, overwrite: bool) -> set[str]:
    """
    Check the output folder. Returns what an earlier predict wrote there beside its JSON, which may be replaced.

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
        former = written_files(json.loads((output / DETECTIONS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"--overwrite: {output / DETECTIONS} is not predict's; choose another --output") from error
    return former


def name_films(stems: list[str], taken: set[str]) -> list[str]:
    """Return a name, `.mp4`, for what is made of each video. The same with `.jsonl` is free too."""
    names = name_pictures(
        stems, {f"{Path(name).stem}.jpg" for name in taken if Path(name).suffix in (".mp4", ".jsonl")}
    )
    return [f"{Path(name).stem}.mp4" for name in names]


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


def written_files(entries: list[dict]) -> set[str]:
    """
    Return the files that the entries of a `detections.json` name: pictures, videos, and the lines of their frames.

    Raises:
        ValueError, TypeError, KeyError: if it is not one that predict wrote.
    """
    if not isinstance(entries, list) or any(type(entry["detections"]) is not list for entry in entries):
        raise ValueError("no list of detections")
    names = [name for entry in entries for name in (entry["picture"], entry.get("frame_lines"))]
    return {name for name in names if name is not None and Path(name).name == name}
