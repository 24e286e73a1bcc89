"""The check of a split before it is used: what is wrong, what is done about it, and the rows that are left."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from . import list_splits, load_detection_dataset
from .findings import KINDS, Finding, Findings
from .image_files import ImageFacts, image_names, inspect_images
from .joining import name_sources
from .rows import (
    ROWS_OF_A_PART,
    SMALLEST_SIDE,
    arrow_table,
    class_names,
    classes_with_objects,
    objects_by_parts,
)
from .samples import count_objects
from .sources.shared_rows import ROWS_TOGETHER, share_batches

_OF_NO_EXTENT = ("outside_box", "zero_sized_box", "negative_box", "nonfinite_box")
_CUT = ("oversized_box", "crossing_box")
IMAGE_CHECKS = ("pixels", "headers", "none")
_CLIPPED_FROM = 1.0  # pixels outside the image; COCO's own boxes cross the border by less, through rounding


@dataclass
class Report:
    """
    What was found in a split, and the rows that are left.

    Args:
        source, split: as they were asked for.
        rows: what training and evaluation use: images that can be decoded, boxes within them.
        findings: a `Finding` (`kind`, `count`, `examples`, `action`) for each kind, in the order of `KINDS`.
        images: image entries that were looked at, of the annotation file or the data set.
        digests: file by the digest of its bytes, for the images in `rows`.
    """

    source: str
    split: str
    rows: Dataset
    findings: list[Finding]
    images: int
    digests: dict[str, str]

    @property
    def defects(self) -> list[Finding]:
        """Those for which `strict` refuses the data."""
        return [finding for finding in self.findings if finding.is_defect]

    @property
    def remarks(self) -> list[Finding]:
        """The others."""
        return [finding for finding in self.findings if not finding.is_defect]

    def format(self, examples: int = 5) -> str:
        """Return a line for each kind of finding, and below at most so many examples, by file and annotation id."""
        boxes = sum(len(objects.field("id").flatten()) for objects in objects_by_parts(self.rows))
        images, classes = _number(self.images, "image"), _number(len(class_names(self.rows)), "class")
        lines = [f"{self.source}, {self.split}: {len(self.rows):,} of {images}, {_number(boxes, 'box')} of {classes}"]
        for title, findings in (("defects", self.defects), ("remarks", self.remarks)):
            if findings:
                lines.append(f"  {title}")
            for finding in findings:
                lines.append(finding.format())
                lines += finding.format_examples(examples, os.path.abspath(self.source)) if examples else []
        return "\n".join(lines)


def check_split(
    source: str,
    split: str,
    num_queries: int | None = None,
    other_splits: Sequence[Report] = (),
    refuse: bool = True,
    images: str = "pixels",
) -> Report:
    """
    Find what is wrong with a split, and leave it out, clip it or set it right.

    Every image file is decoded (see `inspect_images`: once, until it changes). Rows whose image cannot be are left out,
    `width` and `height` become the file's, boxes are clipped to it where they cross its border by a pixel or more, and
    those of which nothing is left are left out. A clipped box keeps its share of `area`. Of many boxes only some are in
    memory at a time.

    Args:
        source, split: as `load_detection_dataset` takes them.
        num_queries: of the detector, to find images that have more objects.
        other_splits: reports on splits among which the images of this one are looked for.
        refuse: a split that nothing can be learned from, its boxes being normalised, is an error; else one of the
            findings.
        images: one of `IMAGE_CHECKS`. `headers` reads the sizes of images only, `none` nothing of them: sizes are
            those of the annotations, and training skips what it cannot read.

    Raises:
        ValueError, OSError: as `load_detection_dataset`.
    """
    findings = Findings()
    rows = load_detection_dataset(source, split, findings)
    for finding in findings.sorted() if refuse else ():
        if finding.action == "refuse":
            what, _, _, note, _ = KINDS[finding.kind]
            file, _, value = finding.examples[0]
            raise ValueError(f"{file} is one of the {what}; {note}: {value}")
    dropped = (f.count for f in findings.sorted() if (f.action, KINDS[f.kind].thing) == ("drop", "image"))
    num_images = len(rows) + sum(dropped)
    digests: dict[str, str] = {}
    if source != "digits":  # made on the spot
        facts = None
        if images != "none":
            place = os.path.abspath(source) if os.path.exists(source) else source
            facts = inspect_images(rows, f"{place} {split}", pixels=images == "pixels")
            digests = {digest: name for digest, name in zip(facts.digests, image_names(rows)) if digest}
        fitted = _fit_to_images(rows, facts, findings)
        for other in other_splits:
            for digest, file in digests.items():
                if digest in other.digests:
                    where = other.split if other.source == source else f"{other.source}, {other.split},"
                    value = f"{where} has it as {os.path.basename(other.digests[digest])}"
                    findings.add("same_image", file, value=value)
        rows = fitted
        if facts is not None and facts.faults:
            rows = rows.select([row for row in range(len(rows)) if row not in facts.faults])
    _remark(rows, num_queries, findings)
    return Report(source, split, rows, findings.sorted(), num_images, digests)


def check_sources(
    sources: Sequence[str], splits: Sequence[str] | None = None, **options: Any
) -> Iterator[tuple[str, Report]]:
    """
    Check splits of several sources. An image of one split is looked for in the other splits of all sources.

    Args:
        splits: None: those that each source has.
        options: of `check_split`.

    Yields:
        The name of the source (`name_sources`) and a report, for each split of each source.

    Raises:
        ValueError, OSError: as `load_detection_dataset`; or a source is named twice.
    """
    reports = []
    for source, name in zip(sources, name_sources(sources)):
        for split in list_splits(source) if splits is None else splits:
            others = [report for report in reports if report.split != split]
            reports.append(check_split(source, split, other_splits=others, **options))
            yield name, reports[-1]


def summarise(reports: Sequence[Report]) -> str:
    """One line: how many defects, and what training makes of them."""
    done: dict[str, Counter[str]] = {}
    for finding in (finding for report in reports for finding in report.defects):
        done.setdefault(finding.action, Counter())[KINDS[finding.kind].thing] += finding.count
    defects = sum(counts.total() for counts in done.values())
    remarks = sum(finding.count for report in reports for finding in report.remarks)
    found = _number(defects, "defect") + (f" and {_number(remarks, 'remark')}" if remarks else "")
    will = [
        f"{action} {', '.join(_number(count, thing) for thing, count in counts.items())}"
        for action, counts in done.items()
        if action not in ("keep", "refuse")
    ]
    if "refuse" in done:
        will = [f"refuse {_number(done['refuse']['file'], 'file')}"]
    images = _number(sum(report.images for report in reports), "image")
    return f"{found} in {images}; training will {'; '.join(will) or 'use them as they are'}"


def _fit_to_images(rows: Dataset, facts: ImageFacts | None, findings: Findings) -> Dataset:
    """The rows with the sizes of their files, and boxes within them; images that have a fault as they were."""
    features = rows.features.copy()
    del features["image"], features["image_id"]

    def fit_parts(found: Findings) -> Iterator[tuple[pa.Table, bool]]:
        for first in range(0, len(rows), ROWS_OF_A_PART):
            part = rows.select(range(first, min(first + ROWS_OF_A_PART, len(rows))))
            yield _fit_part(part, first, facts, found)

    def make_batches() -> Iterator[pa.RecordBatch]:
        for table, _ in fit_parts(Findings()):
            yield from table.cast(features.arrow_schema).to_batches(max_chunksize=ROWS_TOGETHER)

    if not any([is_changed for _, is_changed in fit_parts(findings)]):  # a list: every part has its findings
        return rows
    changed = share_batches(make_batches, features.arrow_schema)
    return concatenate_datasets([rows.select_columns(["image", "image_id"]), changed], axis=1)


def _fit_part(rows: Dataset, first: int, facts: ImageFacts | None, findings: Findings) -> tuple[pa.Table, bool]:
    """Return width, height and objects of rows, the first of which has that number, and whether they are changed."""
    table = arrow_table(rows.select_columns(["width", "height", "objects"])).combine_chunks()
    names = list(image_names(rows))
    sizes = np.stack([table[side].to_numpy() for side in ("width", "height")], 1).astype(np.int64).reshape(-1, 2)
    good, wrong = np.ones(len(sizes), dtype=bool), np.zeros(len(sizes), dtype=bool)
    if facts is not None:
        good = np.array([row not in facts.faults for row in range(first, first + len(sizes))], dtype=bool)
        true_sizes = facts.sizes[first : first + len(sizes)]
        wrong = good & (sizes != true_sizes).any(1)
        _note_images(facts, first, names, sizes, wrong, findings)
        sizes = np.where(wrong[:, None], true_sizes, sizes)

    objects = table["objects"].combine_chunks()
    lists = {field.name: column for field, column in zip(objects.type, objects.flatten())}
    offsets = lists["id"].offsets.to_numpy()
    row_of = np.repeat(np.arange(len(sizes)), np.diff(offsets))
    flat = {name: column.flatten() for name, column in lists.items()}
    boxes = flat["bbox"].flatten().to_numpy().reshape(-1, 4)
    clipped, fates = boxes.copy(), np.full(len(boxes), "", dtype="U16")
    doubtful = np.flatnonzero(_may_leave(boxes, sizes[row_of]) & good[row_of])
    clipped[doubtful], fates[doubtful] = _clip(boxes[doubtful], sizes[row_of[doubtful]])
    changed = (fates != "").nonzero()[0]
    for position in changed:
        file, annotation_id = names[row_of[position]], flat["id"][position].as_py()
        width, height = sizes[row_of[position]]
        findings.add(str(fates[position]), file, annotation_id, f"{boxes[position].tolist()} in {width} x {height}")
    if not wrong.any() and not len(changed):
        return table, False

    kept, cut = ~np.isin(fates, _OF_NO_EXTENT), np.isin(fates, _CUT)
    share = np.where(cut, clipped[:, 2:].prod(1) / np.where(cut, boxes[:, 2:].prod(1), 1), 1)
    flat["area"] = pa.array(flat["area"].to_numpy() * share)
    flat["bbox"] = pa.FixedSizeListArray.from_arrays(np.where(cut[:, None], clipped, boxes).ravel(), 4)
    ends = np.concatenate([[0], np.cumsum(np.bincount(row_of[kept], minlength=len(sizes)))]).astype(np.int32)
    columns = [pa.ListArray.from_arrays(ends, column.filter(pa.array(kept))) for column in flat.values()]
    arrays = [pa.array(sizes[:, 0]), pa.array(sizes[:, 1]), pa.StructArray.from_arrays(columns, names=list(flat))]
    return pa.table(arrays, names=["width", "height", "objects"]), True


def _note_images(
    facts: ImageFacts, first: int, names: list[str], sizes: np.ndarray, wrong: np.ndarray, findings: Findings
) -> None:
    """Add what is known of the images of rows, the first of which has that number."""
    for index, name in enumerate(names):
        if first + index in facts.faults:
            kind, text = facts.faults[first + index]
            findings.add(kind, name, value=text)
        for kind, text in facts.remarks.get(first + index, ()):
            findings.add(kind, name, value=text)
    for index in wrong.nonzero()[0]:
        said, is_ = (f"{width} x {height}" for width, height in (sizes[index], facts.sizes[first + index]))
        findings.add("wrong_size", names[index], value=f"{said}, the file has {is_}")


def _may_leave(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return which boxes are not well within their images: the few that `_clip` is to look at. Shapes are its own."""
    within = (boxes[:, :2] >= 0) & (boxes[:, 2:] > 1e-3) & (boxes[:, :2] + boxes[:, 2:] <= sizes)
    return ~(within[:, 0] & within[:, 1])


def _clip(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Boxes clipped to their images, and what each is a case of, "" if of nothing.

    Args:
        boxes: xywh in pixels, float `[n, 4]`.
        sizes: width and height in pixels of the image of each, int `[n, 2]`.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    within = np.clip(corners, 0, np.tile(sizes, 2))
    sides = within[:, 2:] - within[:, :2]
    fates = np.full(len(boxes), "", dtype="U16")
    fates[(abs(within - corners) >= _CLIPPED_FROM).any(1)] = "crossing_box"
    fates[(boxes[:, 2:] >= sizes + _CLIPPED_FROM).any(1)] = "oversized_box"
    fates[(sides <= SMALLEST_SIDE).any(1)] = "outside_box"
    # of no extent where the loader keeps such: not every source is a COCO file
    fates[(boxes[:, 2:] <= SMALLEST_SIDE).any(1)] = "zero_sized_box"
    fates[(boxes[:, 2:] < 0).any(1)] = "negative_box"
    fates[~np.isfinite(boxes).all(1)] = "nonfinite_box"
    return np.concatenate([within[:, :2], sides], 1), fates


def _remark(rows: Dataset, num_queries: int | None, findings: Findings) -> None:
    counts = count_objects(rows)
    to_name = np.flatnonzero((counts == 0) | (counts > (np.inf if num_queries is None else num_queries)))
    for name, count in zip(image_names(rows.select(to_name)), counts[to_name]):
        if not count:
            findings.add("image_without_boxes", name)
        else:
            findings.add("crowded_image", name, value=f"{count} boxes, num_queries is {num_queries}")
    classes = class_names(rows)
    for index in sorted(set(range(len(classes))) - classes_with_objects(rows)):
        findings.add("absent_class", classes[index])


def _number(count: int, thing: str) -> str:
    plural = {"box": "boxes", "category": "categories", "class": "classes"}.get(thing, f"{thing}s")
    return f"{count:,} {thing if count == 1 else plural}"
