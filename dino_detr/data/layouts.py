"""Where people keep COCO annotation files, and the images that these name.

Annotations: `annotations/instances_<split>.json` (COCO), `annotations/<split>.json`, `<split>.json`, or
`<split>/_annotations.coco.json` (Roboflow). Images: in `<split>/`, `images/<split>/`, beside the annotation file, in
`images/` or in the folder itself, whichever has them.
"""

import itertools
import json
import mmap
import re
from pathlib import Path

from .splits import choose_split

_NUM_TRIED = 100  # images that are looked for, so that a few missing ones do not matter


def annotation_files(folder: Path) -> dict[str, Path]:
    """The annotation files of a folder by their splits."""
    found = {path.parent.name: path for path in folder.glob("*/_annotations.coco.json")}
    for pattern in ("*.json", "annotations/*.json", "annotations/instances_*.json"):
        found |= {path.stem.removeprefix("instances_"): path for path in folder.glob(pattern) if _is_coco(path)}
    return found


def find_annotations(source: Path, split: str) -> tuple[Path, Path]:
    """The annotation file of a split and the folder of its images.

    Args:
        source: a folder, or an annotation file, which is then itself the split.

    Raises:
        FileNotFoundError: the folder has no such split, or the images are in none of the places above.
    """
    if source.is_dir():
        root, files = source, annotation_files(source)
        name = choose_split(split, files, source)
        annotation_file, names = files[name], [name]
    else:
        root = source.parent.parent if source.parent.name == "annotations" else source.parent
        annotation_file, names = source, [source.stem.removeprefix("instances_"), split]
    places = [place for name in names for place in (root / name, root / "images" / name)]
    places = list(dict.fromkeys([*places, annotation_file.parent, root / "images", root]))
    file_names = _file_names(annotation_file)
    found = {place: sum((place / name).is_file() for name in file_names) for place in places}
    best = max(places, key=found.get)
    if file_names and not found[best]:
        raise FileNotFoundError(
            f"{annotation_file} names {file_names[0]!r}, which is in none of "
            f"{', '.join(str(place) for place in places)}. Put the images in one of these folders."
        )
    return annotation_file, best


def is_shared(annotation_file: Path, image_folder: Path) -> bool:
    """Whether another annotation file, beside this one, names images in the same folder: one for all splits, say."""
    others = (path for path in annotation_file.parent.glob("*.json") if path != annotation_file and _is_coco(path))
    return any((image_folder / name).is_file() for path in others for name in _file_names(path, 1))


def _is_coco(path: Path) -> bool:
    """Not captions, keypoints or panoptic masks of the same images, nor a JSON file of something else."""
    if path.stem.startswith("instances_"):
        return True
    if path.stem.startswith(("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")):
        return False
    return bool(_file_names(path, 1))


def _file_names(annotation_file: Path, count: int = _NUM_TRIED) -> list[str]:
    """The first file names in it, found without parsing what may be half a gigabyte."""
    if not annotation_file.stat().st_size:
        return []
    with open(annotation_file, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        matches = re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', text)
        found = [match[1] for match in itertools.islice(matches, count)]
        del matches  # it holds on to the file
    try:
        return [json.loads(name) for name in found]
    except ValueError:  # damaged: whoever parses it all says where
        return []
