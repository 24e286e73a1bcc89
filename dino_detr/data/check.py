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
from .rows import SMALLEST_SIDE, arrow_table, class_names, values_of_objects
from .samples import count_objects
from .sources.shared_rows import share_rows

_OF_NO_EXTENT = ("outside_box", "zero_sized_box", "negative_box", "nonfinite_box")
_CUT = ("oversized_box", "crossing_box")
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
        boxes = len(values_of_objects(self.rows, "id"))
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
) -> Report:
    """
    Find what is wrong with a split, and leave it out, clip it or set it right.

    Every image file is decoded (see `inspect_images`: once, until it changes). Rows whose image cannot be are left out,
    `width` and `height` become the file's, boxes are clipped to it where they cross its border by a pixel or more, and
    those of which nothing is left are left out. A clipped box keeps its share of `area`.

    Args:
        source, split: as `load_detection_dataset` takes them.
        num_queries: of the detector, to find images that have more objects.
        other_splits: reports on splits among which the images of this one are looked for.
        refuse: a split that nothing can be learned from, its boxes being normalised, is an error; else one of the
            findings.

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
    images = len(rows) + sum(f.count for f in findings.sorted() if (f.action, KINDS[f.kind].thing) == ("drop", "image"))
    digests: dict[str, str] = {}
    if source != "digits":  # made on the spot
        place = os.path.abspath(source) if os.path.exists(source) else source
        facts = inspect_images(rows, f"{place} {split}")
        names = list(image_names(rows))
        rows = _fit_to_images(rows, facts, names, findings)
        good = [index for index in range(len(names)) if index not in facts.faults]
        digests = {facts.digests[index]: names[index] for index in good}
        for other in other_splits:
            for digest, file in digests.items():
                if digest in other.digests:
                    where = other.split if other.source == source else f"{other.source}, {other.split},"
                    value = f"{where} has it as {os.path.basename(other.digests[digest])}"
                    findings.add("same_image", file, value=value)
        if facts.faults:
            rows = rows.select(good)
    _remark(rows, num_queries, findings)
    return Report(source, split, rows, findings.sorted(), images, digests)


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


def _fit_to_images(rows: Dataset, facts: ImageFacts, names: list[str], findings: Findings) -> Dataset:
    """The rows with the sizes of their files, and boxes within them; images that have a fault as they were."""
    table = arrow_table(rows.select_columns(["width", "height", "objects"])).combine_chunks()
    for index, (kind, text) in facts.faults.items():
        findings.add(kind, names[index], value=text)
    for index, remarks in facts.remarks.items():
        for kind, text in remarks:
            findings.add(kind, names[index], value=text)
    sizes = np.stack([table[side].to_numpy() for side in ("width", "height")], 1).astype(np.int64).reshape(-1, 2)
    good = ~np.isin(np.arange(len(sizes)), list(facts.faults))
    wrong = good & (sizes != facts.sizes).any(1)
    for index in wrong.nonzero()[0]:
        said, is_ = (f"{width} x {height}" for width, height in (sizes[index], facts.sizes[index]))
        findings.add("wrong_size", names[index], value=f"{said}, the file has {is_}")
    sizes = np.where(wrong[:, None], facts.sizes, sizes)

    objects = table["objects"].combine_chunks()
    lists = {field.name: column for field, column in zip(objects.type, objects.flatten())}
    offsets = lists["id"].offsets.to_numpy()
    row_of = np.repeat(np.arange(len(sizes)), np.diff(offsets))
    flat = {name: column.flatten() for name, column in lists.items()}
    boxes = flat["bbox"].flatten().to_numpy().reshape(-1, 4)
    clipped, fates = _clip(boxes, sizes[row_of])
    fates[~good[row_of]] = ""
    for position in (fates != "").nonzero()[0]:
        file, annotation_id = names[row_of[position]], flat["id"][position].as_py()
        width, height = sizes[row_of[position]]
        findings.add(str(fates[position]), file, annotation_id, f"{boxes[position].tolist()} in {width} x {height}")
    if not wrong.any() and not (fates != "").any():
        return rows

    kept, cut = ~np.isin(fates, _OF_NO_EXTENT), np.isin(fates, _CUT)
    share = np.where(cut, clipped[:, 2:].prod(1) / np.where(cut, boxes[:, 2:].prod(1), 1), 1)
    flat["area"] = pa.array(flat["area"].to_numpy() * share)
    flat["bbox"] = pa.FixedSizeListArray.from_arrays(np.where(cut[:, None], clipped, boxes).ravel(), 4)
    ends = np.concatenate([[0], np.cumsum(np.bincount(row_of[kept], minlength=len(sizes)))]).astype(np.int32)
    columns = [pa.ListArray.from_arrays(ends, column.filter(pa.array(kept))) for column in flat.values()]
    features = rows.features.copy()
    del features["image"], features["image_id"]
    arrays = [pa.array(sizes[:, 0]), pa.array(sizes[:, 1]), pa.StructArray.from_arrays(columns, names=list(flat))]
    changed = share_rows(pa.table(arrays, names=list(features)).cast(features.arrow_schema))
    return concatenate_datasets([rows.select_columns(["image", "image_id"]), changed], axis=1)


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
    for name, count in zip(image_names(rows), counts):
        if not count:
            findings.add("image_without_boxes", name)
        elif num_queries is not None and count > num_queries:
            findings.add("crowded_image", name, value=f"{count} boxes, num_queries is {num_queries}")
    classes = class_names(rows)
    for index in sorted(set(range(len(classes))) - set(values_of_objects(rows, "category"))):
        findings.add("absent_class", classes[index])


def _number(count: int, thing: str) -> str:
    plural = {"box": "boxes", "category": "categories", "class": "classes"}.get(thing, f"{thing}s")
    return f"{count:,} {thing if count == 1 else plural}"
