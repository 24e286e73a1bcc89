"""The class names of a YOLO data set, wherever and however its tool wrote them."""

import re
from pathlib import Path
from typing import Any

from .source_files import SourceFiles, read_text

_NAME_FILES = ("classes.txt", "obj.names", "predefined_classes.txt", "_darknet.labels")


def find_names(
    description: dict, yaml_file: Path | None, darknet: dict, files: SourceFiles, folders: list[Path]
) -> tuple[dict[int, str] | None, str]:
    """
    Return the names by class number, None if nothing says them, and a note for the user or "".

    Args:
        description: content of the `data.yaml`, scalars as text; {} without one.
        yaml_file: its path.
        darknet: content of an `obj.data`; {} without one.
        files: of the data set.
        folders: that paths are relative to.

    Raises:
        ValueError: names or `nc` cannot be understood.
    """
    name_files = _find_name_files(darknet, files, folders)
    if description.get("names"):
        names = _names_of(description["names"], yaml_file, files, folders)
        for path in name_files:
            if read_lines(path) == list(names.values()):
                files.use(path)
        count = description.get("nc")
        if count and count != str(len(names)):
            return names, f"{yaml_file}: nc is {count}, but names has {len(names)}; names is taken"
        return names, ""
    names = None
    for path in name_files:
        content = read_lines(path)
        if content and names in (None, content):  # the same in each folder of labels
            names = content
            files.use(path)
    if names is not None:
        return dict(enumerate(names)), ""
    return _number_classes(description["nc"], yaml_file) if "nc" in description else (None, "")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without spaces around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _find_name_files(darknet: dict, files: SourceFiles, folders: list[Path]) -> list[Path]:
    """Return the files with a class name a line, the one that counts first."""
    found = [files.find(darknet["names"], folders)] if "names" in darknet else []
    for name in _NAME_FILES:
        of_name = [path for path in files.paths if path.name.lower() == name]
        found += sorted(of_name, key=lambda path: (len(path.parts), path))
    found += files.of_suffix(".names")
    return [path for path in dict.fromkeys(found) if path is not None and path.is_file()]


def _number_classes(count: object, yaml_file: Path | None) -> tuple[dict[int, str], str]:
    """Return names for classes of which only the number is known."""
    if not isinstance(count, str) or not re.fullmatch(r"[0-9]{1,5}", count) or not int(count):
        raise ValueError(f"{yaml_file}: nc is {count!r}, not the number of classes; and there are no names")
    last = int(count) - 1
    note = f"{yaml_file} has nc, but no names: the classes are called class_0 to class_{last}"
    return {index: f"class_{index}" for index in range(last + 1)}, note


def _names_of(names: Any, yaml_file: Path | None, files: SourceFiles, folders: list[Path]) -> dict[int, str]:
    """Return names by class number: of a list, a mapping in either direction, a list in a text, or a file of lines."""
    if isinstance(names, str):
        path = files.find(names, folders) if re.fullmatch(r"[^\n,]+", names) else None
        if path is not None and path.is_file():
            files.use(path)
            names = read_lines(path)
        elif re.search(r"\.(names|txt)$", names.strip()):
            raise ValueError(f"{yaml_file}: names is {names!r}, and there is no such file")
        else:
            names = [name.strip().strip("\"'") for name in re.split(r"[,\n]", names.strip("[] \n")) if name.strip()]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise ValueError(f"{yaml_file}: names is neither a list nor a mapping")
    pairs = list(names.items())
    if not any(_is_index(index) for index, _ in pairs) and all(_is_index(name) for _, name in pairs):
        pairs = [(index, name) for name, index in pairs]
    for index, name in pairs:
        if not _is_index(index) or not isinstance(name, str):
            raise ValueError(
                f"{yaml_file}: names has {name!r} at {index!r}, but wants a name for each class number: "
                "{0: cat, 1: dog} or [cat, dog]"
            )
    by_index = {int(index): name for index, name in pairs}
    if len(by_index) < len(pairs):
        raise ValueError(f"{yaml_file}: names has several names for a class number")
    return dict(sorted(by_index.items()))


def _is_index(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) is not None)
