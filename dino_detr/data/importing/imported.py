"""A data set of another form, on its way to COCO's."""

from dataclasses import dataclass, field
from pathlib import Path

from .source_files import SourceFiles


@dataclass
class ImportedObject:
    """An object of a category, its box x, y, width, height in pixels."""

    category_id: int
    bbox: list[float]
    difficult: bool = False


@dataclass
class ImportedImage:
    """An image file, its size in pixels when upright, and what is in it."""

    path: Path
    width: int
    height: int
    objects: list[ImportedObject] = field(default_factory=list)


@dataclass
class ImportedDataset:
    """
    A data set as a reader of its form leaves it.

    Args:
        files: of the source; what the reader neither uses nor reports becomes a problem.
        unused: what to say of such files, as `SourceFiles.name_rest` takes it.
        names: of the categories, by id.
        splits: images by split; `all` where the source has no splits.
        problems: what was left out, a line each.
        notes: what the user should know beside that.
    """

    files: SourceFiles
    unused: dict[str, str]
    names: dict[int, str]
    splits: dict[str, list[ImportedImage]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
