"""Findings about a data set, and what is done about each."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

KEPT_EXAMPLES = 1000  # of a kind; the others are only counted


class Kind(NamedTuple):
    """A kind of finding: what it is, in the plural; what is done, to what; a word on that; whether it is a defect.

    Defects contradict the data or cost some of it. Remarks (of what is absent, or filled with what it can only be)
    are no reason for `--strict` to refuse.
    """

    what: str
    action: str
    thing: str
    note: str = ""
    defect: bool = True


KINDS = {  # in the order of a report
    "unusable_image": Kind("image entries without file_name or whole-number id", "drop", "image"),
    "repeated_image_id": Kind("image entries that repeat an id", "drop", "image", "the first is kept"),
    "missing_file": Kind("image files that are missing", "drop", "image"),
    "outside_file": Kind(
        "image files outside of the data set's folder", "drop", "image", "put or link them into it to use them"
    ),
    "not_an_image": Kind("files that are not images", "drop", "image"),
    "truncated_file": Kind("image files that are truncated or damaged", "drop", "image"),
    "image_too_large": Kind(
        "images of more pixels than are read", "drop", "image", "cut them into tiles, or raise the limit"
    ),
    "unreadable_file": Kind(
        "image files that cannot be read now", "drop", "image", "memory, permission or a codec is missing"
    ),
    "damaged_exif": Kind("images with damaged EXIF", "keep", "image", "which side is up may not be known"),
    "unknown_range": Kind(
        "images whose range of values is not known", "keep", "image", "one is guessed; 8 bits have none to guess"
    ),
    "wrong_size": Kind(
        "images whose width and height are not the file's", "correct", "size", "the file's, upright, are taken"
    ),
    "unusable_category": Kind("categories that repeat an id or have none", "drop", "category", "the first is kept"),
    "normalised_boxes": Kind("annotation files whose boxes are normalised", "refuse", "file", "COCO's are in pixels"),
    "corner_boxes": Kind(
        "annotation files whose boxes seem to be corners", "keep", "file", "COCO's are x, y, width, height"
    ),
    "centre_boxes": Kind(
        "annotation files whose boxes seem to be cx, cy, width, height",
        "keep",
        "file",
        "COCO's are x, y, width, height",
    ),
    "malformed_annotation": Kind("annotation entries that are no objects", "drop", "box"),
    "unknown_image_id": Kind("annotations of unknown images", "drop", "box"),
    "unknown_category_id": Kind("annotations of unknown categories", "drop", "box"),
    "malformed_box": Kind("boxes that are not four numbers", "drop", "box"),
    "nonfinite_box": Kind("boxes with NaN, infinity or 1e12 and more", "drop", "box"),
    "negative_box": Kind("boxes of negative width or height", "drop", "box"),
    "zero_sized_box": Kind("boxes of no width or height", "drop", "box"),
    "outside_box": Kind("boxes wholly outside the image", "drop", "box"),
    "oversized_box": Kind("boxes larger than the image", "clip", "box"),
    "crossing_box": Kind("boxes partly outside the image", "clip", "box"),
    "repeated_annotation_id": Kind("annotations that repeat an id", "renumber", "annotation"),
    "unusable_area": Kind(
        "annotations whose area is no number, or below 0", "correct", "area", "width x height is taken"
    ),
    "unusable_iscrowd": Kind("annotations whose iscrowd is neither 0 nor 1", "correct", "iscrowd", "0 is taken"),
    "same_image": Kind("images that another split has too", "keep", "image", "figures on them say little"),
    "all_outside": Kind(
        "image files outside of the data set's folder, as all are",
        "keep",
        "image",
        "pictures of reports show them",
        defect=False,
    ),
    "respelled_file": Kind(
        "image files that file_name spells otherwise", "keep", "image", "each is the only one that fits", defect=False
    ),
    "text_number": Kind("entries with numbers written as text", "read", "entry", "as numbers", defect=False),
    "text_id": Kind("ids that are text and no number", "number", "id", "results files carry the numbers", defect=False),
    "unusable_annotation_id": Kind(
        "annotations whose id is no whole number", "renumber", "annotation", "no result names it", defect=False
    ),
    "missing_annotation_id": Kind("annotations without id", "fill", "id", "with new numbers", defect=False),
    "missing_area": Kind("annotations without area", "fill", "area", "with width x height", defect=False),
    "missing_iscrowd": Kind("annotations without iscrowd", "fill", "iscrowd", "with 0", defect=False),
    "missing_size": Kind("images without width and height", "fill", "size", "from the file", defect=False),
    "image_without_boxes": Kind(
        "images without boxes", "keep", "image", "evaluated on, left out of training", defect=False
    ),
    "crowded_image": Kind("images with more boxes than num_queries", "keep", "image", defect=False),
    "elongated_image": Kind("images over 80 times as long as wide", "keep", "image", "cut them into tiles", False),
    "dark_image": Kind("images that are black", "keep", "image", "are they masks, or of few bits?", defect=False),
    "absent_class": Kind("classes without boxes", "keep", "class", defect=False),
    "unnamed_file": Kind("image files that no annotation names", "ignore", "file", defect=False),
}

_DONE = {"drop": "dropped", "clip": "clipped", "correct": "corrected", "renumber": "given new ids", "fill": "filled"}
_DONE |= {"keep": "kept", "ignore": "ignored", "read": "read", "number": "numbered", "refuse": "refused"}


class Example(NamedTuple):
    """One case: a file, the id of the annotation if it is about one, and what is seen there."""

    file: str
    annotation_id: int | None = None
    value: object = None


@dataclass
class Finding:
    """All cases of a kind, the first of them as examples."""

    kind: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    @property
    def action(self) -> str:
        """`drop`, `clip`, `correct`, `renumber`, `fill`, `read`, `number`, `keep`, `ignore` or `refuse`."""
        return KINDS[self.kind].action

    @property
    def is_defect(self) -> bool:
        return KINDS[self.kind].defect

    def format(self) -> str:
        """One line: how many of what, and what is done."""
        what, action, _, note, _ = KINDS[self.kind]
        return f"{self.count:>7}  {what}: {_DONE[action]}" + (f" ({note})" if note else "")

    def format_examples(self, most: int, root: str) -> list[str]:
        """At most this many lines, and one that says how many more there are; files as seen from the folder `root`."""
        lines = []
        for file, annotation_id, value in self.examples[:most]:
            name = os.path.relpath(file, root) if file.startswith(f"{root}{os.sep}") else file
            number = "" if annotation_id is None else f", annotation {annotation_id}"
            lines.append(f"{'':9}  {name}{number}" + ("" if value is None else f": {value}"))
        if self.count > len(lines):
            lines.append(f"{'':9}  and {self.count - len(lines):,} more")
        return lines


class Findings:
    """Collects findings while a split is read and checked."""

    def __init__(self):
        self._by_kind: dict[str, Finding] = {}

    def add(self, kind: str, file: str | Path, annotation_id: int | None = None, value: object = None) -> None:
        finding = self._by_kind.setdefault(kind, Finding(kind))
        finding.count += 1
        if len(finding.examples) < KEPT_EXAMPLES:
            finding.examples.append(Example(str(file), annotation_id, value))

    def update(self, other: "Findings") -> None:
        """Take in what another has collected."""
        for finding in other._by_kind.values():
            self.include(finding)

    def include(self, finding: Finding) -> None:
        """Add all cases of a kind."""
        for file, annotation_id, value in finding.examples:
            self.add(finding.kind, file, annotation_id, value)
        self._by_kind[finding.kind].count += finding.count - len(finding.examples)

    def sorted(self) -> list[Finding]:
        """Return the findings in the order of `KINDS`."""
        return [self._by_kind[kind] for kind in KINDS if kind in self._by_kind]
