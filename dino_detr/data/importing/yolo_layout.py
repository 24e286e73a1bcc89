"""The splits of a YOLO data set and their images, in the layouts that tools write."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from .source_files import SPLIT_NAMES, SourceFiles, is_image, printable, read_text
from .yolo_names import find_names, read_lines

LAYOUTS = (
    "These are read: a data.yaml with names, and train and val, which are folders of images or lists of them; "
    "images/<split>/ with labels/<split>/, or <split>/images/ with <split>/labels/, and classes.txt; images/ with "
    "labels/, or label files beside the images, and classes.txt (--val_share makes the splits); CVAT's obj.names, "
    "obj.data and train.txt"
)
_YAML, _LISTS = (".yaml", ".yml"), (".txt",)


@dataclass
class Layout:
    """
    A data set before a label is read.

    Args:
        files: of the data set's folders.
        names: of the classes, by number.
        splits: image files by split.
        with_keypoints: whether numbers after a box are keypoints.
        notes: what the user should know.
    """

    files: SourceFiles
    names: dict[int, str]
    splits: dict[str, list[Path]]
    with_keypoints: bool
    notes: list[str]


def find_layout(source: Path) -> Layout:
    """
    Find names and splits from a `data.yaml`, or the folder it is in, or a folder without one.

    Raises:
        FileNotFoundError, ValueError: the classes have no names, or what says them cannot be understood.
    """
    description, yaml_file, faults = _read_description(source)
    folder = source if source.is_dir() else source.parent
    root = _root(description, folder)
    files = SourceFiles([folder, root] if source.is_dir() else [root])
    for path, fault in faults.items():
        files.report(path, fault)
    if yaml_file is not None:
        files.use(yaml_file)
    darknet = _read_darknet(files)
    names, note = find_names(description, yaml_file, darknet, files, [folder, root])
    if names is None:
        if faults:
            raise ValueError("; ".join(f"{path} {fault}" for path, fault in faults.items()))
        raise FileNotFoundError(
            f"{source} has no data.yaml with names, and no classes.txt: the classes have no names. {LAYOUTS}"
        )
    places = _places(description, yaml_file) or _places(darknet, None)
    where = yaml_file or source
    images = {split: _images(of_split, [folder, root], where, files) for split, of_split in places.items()}
    splits = {split: found for split, found in images.items() if found} or _find_splits(files)
    return Layout(files, names, splits, "kpt_shape" in description, [note] if note else [])


def _read_description(source: Path) -> tuple[dict, Path | None, dict[Path, str]]:
    """Return the content of the `data.yaml` and its path, or {} and None, and what was wrong with other YAML files."""
    if source.is_file():
        content = _load_yaml(source)
        if not isinstance(content, dict):
            raise ValueError(f"{source} is no data.yaml: it is not a mapping with names, train and val")
        return content, source, {}
    candidates = sorted(path for path in source.iterdir() if path.suffix.lower() in _YAML and path.is_file())
    candidates.sort(key=lambda path: path.stem.lower() != "data")
    faults, found = {}, {}
    for path in candidates:
        try:
            content = _load_yaml(path)
        except ValueError as error:
            faults[path] = str(error).removeprefix(f"{path} ")
            continue
        if isinstance(content, dict):
            found[path] = content
    for keys in (("names", "nc"), ("train", "val")):
        for path, content in found.items():
            if any(content.get(key) for key in keys):
                return content, path, faults
    return {}, None, faults


def _load_yaml(path: Path) -> object:
    """Read YAML with scalars as they are written: a class called `no` is no boolean."""
    text = read_text(path)
    if printable(text) != text:
        raise ValueError(f"{path} is not readable as YAML: it is not in UTF-8; save it as UTF-8")
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from error


def _root(description: dict, folder: Path) -> Path:
    """Return the folder that paths are relative to: `path`, if there is such a folder on this machine."""
    path = description.get("path")
    if isinstance(path, str) and path and os.path.isdir(folder / path):
        return folder / path
    return folder


def _read_darknet(files: SourceFiles) -> dict:
    """Return the `train`, `valid` and `names` of an `obj.data`: lines of `key = value`."""
    for path in files.of_suffix(".data"):
        pairs = [line.partition("=") for line in read_text(path).splitlines()]
        content = {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
        if content.keys() & {"names", "train", "classes"}:
            files.use(path)
            return content
    return {}


def _places(description: dict, yaml_file: Path | None) -> dict[str, list[str]]:
    """Return the folders and lists of each split that a description names."""
    places = {}
    for split, keys in SPLIT_NAMES.items():
        value = next((description[key] for key in keys if description.get(key)), [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(place, str) for place in value):
            raise ValueError(f"{yaml_file}: {split} is neither a path nor a list of paths")
        if value:
            places[split] = value
    return places


def _images(places: Iterable[str], folders: list[Path], where: Path, files: SourceFiles) -> list[Path]:
    """Return the images of a split's places: folders of images, lists of them, or images."""
    found: dict[Path, None] = {}
    for place in places:
        path = files.find(place, folders[::-1])
        if path is None:
            files.problems.append(f"{where}: {place} does not exist")
        elif path.is_dir():
            found |= dict.fromkeys(files.images(path))
        elif is_image(path):
            found[path] = None
        else:
            found |= dict.fromkeys(_images_of_list(path, folders, files))
    return list(found)


def _images_of_list(path: Path, folders: list[Path], files: SourceFiles) -> list[Path]:
    files.use(path)
    images: dict[Path, None] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip("\ufeff\"' \t"):
            continue
        image = files.find(line, [path.parent, *folders[::-1]])
        if image is None or not image.is_file():
            files.problems.append(f"{path}:{number}: there is no image {line.strip()}")
        elif image in images:
            files.problems.append(f"{path}:{number}: {line.strip()} is listed already")
        else:
            images[image] = None
    return list(images)


def _find_splits(files: SourceFiles) -> dict[str, list[Path]]:
    """Return the images of each split where no description names them: by lists, else by folders, else as `all`."""
    splits: dict[str, list[Path]] = {}
    for split, stems in SPLIT_NAMES.items():
        for root in files.roots:
            for path in (path for stem in stems for path in files.of_stem(root, stem, _LISTS)):
                if split not in splits and any(is_image(Path(line.strip("\"' "))) for line in read_lines(path)):
                    splits[split] = _images_of_list(path, [root], files)
    if any(splits.values()):
        return {split: images for split, images in splits.items() if images}
    images = files.images()
    by_folder = files.by_split(images)
    if by_folder or splits:  # lists of which no image is here
        return by_folder
    inside = [path for path in images if "images" in map(str.lower, path.parts[len(files.roots[0].parts) :])]
    return {"all": inside or images} if images else {}
