"""Data sets as rows, augmented training samples, and batches."""

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset

from .findings import Findings
from .image_files import image_names
from .rows import arrow_table, category_ids, class_names
from .sources.coco import load_coco
from .sources.coco_layouts import annotation_files
from .sources.digits import NUM_SCENES, load_digits_scenes
from .sources.hub_datasets import HUB_PREFIX, detection_rows, is_saved_dataset, list_hub_splits, load_hub_dataset
from .sources.shared_rows import share_rows
from .sources.splits import choose_part, split_part

__all__ = ["category_ids", "class_names", "detection_rows", "list_splits", "load_detection_dataset"]


def load_detection_dataset(source: str, split: str, findings: Findings | None = None) -> Dataset:
    """Load one split of a detection data set; the rows are described in `rows.py`.

    Args:
        source: one of

            - `digits`: scenes of handwritten digits, generated on the spot;
            - a folder with COCO annotations (`sources/coco_layouts.py` says where they and the images may be);
            - an annotation file, `path/to/annotations.json`, which is then itself the split;
            - a folder saved by `datasets`, or of parquet files, or of tar files (WebDataset, with `<key>.json` beside
              each image), or of images with a `metadata` file;
            - `user/name` or `user/name:config` on the Hugging Face Hub, also as `hf://datasets/user/name`.

            What exists as a file or folder is that; a folder that is itself called digits is `./digits`.
        split: any that the source has; `val` also finds `valid`, `validation` or `val2017`, and says so. Also a part
            of one, `train[:90%]` (see `choose_part`).
        findings: gets what is left out or filled in reading annotation files. `check_split` says more.

    Raises:
        FileNotFoundError: there is no such split, or none of the images.
        ValueError: the source is none of the above, or an annotation file or the columns are not as they must be.
        OSError: the Hub has no such data set or cannot be reached.
    """
    source, path = str(source), Path(source).expanduser()
    name, part = split_part(split)
    with _without_garbage_collection():
        if source == "digits":
            return _share(_part_of(load_digits_scenes(name), part, split))
        if _is_annotation_file(path) or (path.is_dir() and annotation_files(path)):
            return load_coco(path, name, part, findings)
    if _is_for_datasets(source, path):  # read from its own memory-mapped files
        return _part_of(load_hub_dataset(source, name, findings), part, split)
    raise _unknown(source)


def list_splits(source: str) -> list[str]:
    """List the splits of a data set. An annotation file is one split, of its own name.

    Raises:
        ValueError, OSError: as `load_detection_dataset`.
    """
    source, path = str(source), Path(source).expanduser()
    if source == "digits":
        return list(NUM_SCENES)
    if _is_annotation_file(path):
        return [path.stem.removeprefix("instances_")]
    if path.is_dir() and (files := annotation_files(path)):
        return sorted(files)
    if _is_for_datasets(source, path):
        return list_hub_splits(source)
    raise _unknown(source)


def _part_of(rows: Dataset, part: str, split: str) -> Dataset:
    """Select the rows of a part. Rows are cut, not files, so that numbered images have different ids in all parts."""
    if not part:
        return rows
    names = [os.path.basename(name) for name in image_names(rows)]
    return rows.select(choose_part(part, names, split))


def _is_annotation_file(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".json"


def _is_for_datasets(source: str, path: Path) -> bool:
    like_an_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[^/\\]+)?", source.removeprefix(HUB_PREFIX))
    return is_saved_dataset(path) or (like_an_id is not None and not path.exists())


def _unknown(source: str) -> ValueError:
    if Path(source).expanduser().is_dir():
        return ValueError(
            f"No data set in {source}: it needs annotations/instances_<split>.json with images in <split>/ (COCO), "
            "<split>/_annotations.coco.json with images beside it (Roboflow), or what datasets saved. `dino-detr "
            "import-data` makes a COCO folder of YOLO or VOC data."
        )
    if Path(source).expanduser().is_file():
        return ValueError(f"No data set in {source}: an annotation file is JSON, unpacked, and called .json")
    return ValueError(
        f"No data set {source!r}: there is no such folder or .json file, it does not look like a data set on the Hub "
        "(user/name), and the only built-in data set is 'digits'."
    )


def _share(rows: Dataset) -> Dataset:
    table = arrow_table(rows)
    return share_rows(table.replace_schema_metadata(rows.features.arrow_schema.metadata))


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off. Annotations are millions of objects and no garbage, and looking for it is slow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
