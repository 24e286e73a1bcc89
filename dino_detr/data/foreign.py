"""A data set of another form, on its way to COCO's."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class ForeignObject:
    """An object of a category, its box x, y, width, height in pixels."""

    category_id: int
    bbox: list[float]
    difficult: bool = False


@dataclass
class ForeignImage:
    """An image file, its size in pixels when upright, and what is in it."""

    path: Path
    width: int
    height: int
    objects: list[ForeignObject] = field(default_factory=list)


@dataclass
class ForeignDataset:
    """Category names by id, images by split, what was left out (a line each), and what the user should know."""

    names: dict[int, str]
    splits: dict[str, list[ForeignImage]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
