"""Layouts of COCO folders: annotation files, and the images that these name.

Annotations: `annotations/instances_<split>.json` (COCO), `annotations/<split>.json`, `<split>.json`, or
`<split>/_annotations.coco.json` (Roboflow). Images: in `<split>/`, `images/<split>/`, beside the annotation file, in
`images/`, in the folder itself or in `data/` (FiftyOne), whichever has them; else wherever in the folder they are.
"""

import itertools
import json
import mmap
import re
from pathlib import Path
from typing import NamedTuple

from transformers.utils import logging

from .annotation_json import as_utf8
from .file_names import ImageFiles, find_alike, search_folder
from .splits import choose_split, is_usual_split

logger = logging.get_logger(__name__)

_NUM_TRIED = 100  # images that are looked for, so that a few missing ones do not matter


class Layout(NamedTuple):
    """An annotation file, and what finds the images that it names."""

    annotation_file: Path
    images: ImageFiles


def annotation_files(folder: Path) -> dict[str, Path]:
    """The annotation files of a folder by their splits."""
    found = {path.parent.name: path for path in folder.glob("*/_annotations.coco.json")}
    for pattern in ("*.json", "annotations/*.json", "annotations/instances_*.json"):
        found |= {path.stem.removeprefix("instances_"): path for path in folder.glob(pattern) if _is_coco(path)}
    return found


def find_annotations(source: Path, split: str) -> Layout:
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
        annotation_file, names, files = source, [source.stem.removeprefix("instances_"), split], {}
    places = [place for name in names for place in (root / name, root / "images" / name)]
    places = list(dict.fromkeys([*places, annotation_file.parent, root / "images", root, root / "data"]))
    return Layout(annotation_file, _find_images(annotation_file, root, places, set(files) - set(names), names))


def is_shared(annotation_file: Path, image_folder: Path) -> bool:
    """Return whether another annotation file beside this one names images in the same folder."""
    others = (path for path in annotation_file.parent.glob("*.json") if path != annotation_file and _is_coco(path))
    return any(_is_file(image_folder / name) for path in others for name in _file_names(path, 1))


def _find_images(
    annotation_file: Path, root: Path, places: list[Path], other_splits: set[str], names: list[str]
) -> ImageFiles:
    """The place where most of the first names are; by their letter, else by what they may mean."""
    file_names = _file_names(annotation_file)
    found = {place: sum(_is_file(place / name) for name in file_names) for place in places}
    best = max(places, key=lambda place: found[place])
    if found[best] or not file_names:
        return ImageFiles(best, root, places)
    finders = {place: ImageFiles(place, root) for place in places}
    fitting = {place: sum(bool(finder.fitting(name)) for name in file_names) for place, finder in finders.items()}
    best = max(places, key=lambda place: fitting[place])
    if fitting[best]:
        return ImageFiles(best, root, places)
    if any(map(is_usual_split, names)):  # the others' images are not this one's
        other_splits |= {folder.name for folder in root.glob("**/") if is_usual_split(folder.name)}
    files = search_folder(root, other_splits - set(names))
    anywhere = ImageFiles(root, root, (), files)
    folders = {Path(path).parent for name in file_names for path in anywhere.fitting(name)}
    if len(folders) == 1:
        (folder,) = folders
        logger.warning_once(f"{annotation_file}: its images are taken from {folder}, the only folder that has them")
        return ImageFiles(folder, root)
    if folders:
        return anywhere
    hint = find_alike(file_names[0], files, root)
    raise FileNotFoundError(
        f"{annotation_file} names {file_names[0]!r}, which is in none of "
        f"{', '.join(str(place) for place in places)}{'; ' if hint else ''}{hint}. Put the images in one of these "
        "folders."
    )


def _is_file(path: Path) -> bool:
    """Tell whether there is such a file; a name that no file system takes is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_coco(path: Path) -> bool:
    """Tell COCO boxes from captions, keypoints or panoptic masks of the same images, and from other JSON."""
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
        if json.detect_encoding(text[:4]) in ("utf-8", "utf-8-sig"):
            return _find_names(text, count)
        try:
            return _find_names(as_utf8(text[:]), count)
        except UnicodeDecodeError:  # whoever parses it all says so
            return []


def _find_names(text: bytes | mmap.mmap, count: int) -> list[str]:
    matches = re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', text)
    found = [match[1] for match in itertools.islice(matches, count)]
    del matches  # it holds on to the file
    try:
        return [json.loads(name) for name in found]
    except ValueError:  # damaged: whoever parses it all says where
        return []
