"""Where images and boxes come from: data sets as rows, augmented training samples, batches."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset

from .coco import load_coco_file, load_coco_folder
from .digits import load_digits_scenes
from .hub_datasets import detection_rows, is_saved_dataset, load_hub_dataset
from .layouts import annotation_files, find_annotations
from .rows import category_ids, class_names
from .shared_rows import share_rows

__all__ = ["category_ids", "class_names", "detection_rows", "load_detection_dataset"]


def load_detection_dataset(source: str, split: str) -> Dataset:
    """Load one split of a detection data set; the rows are described in `rows.py`.

    Args:
        source: one of

            - `digits`: scenes of handwritten digits, generated on the spot;
            - a folder with COCO annotations (`layouts.py` says where they and the images may be);
            - an annotation file, `path/to/annotations.json`, which is then itself the split;
            - a folder saved by `datasets`, or of parquet files, or of images with a `metadata` file;
            - `user/name` or `user/name:config` on the Hugging Face Hub.

            What exists as a file or folder is that; a folder that is itself called digits is `./digits`.
        split: any that the source has; `val` also finds `valid`, `validation` or `val2017`, and says so. Of the last
            two sources also a part, `train[:90%]`.

    Raises:
        FileNotFoundError: there is no such split, or images are missing.
        ValueError: the source is none of the above, or an annotation file or the columns are not as they must be.
        OSError: the Hub has no such data set or cannot be reached.
    """
    source, path = str(source), Path(source).expanduser()
    with _without_garbage_collection():
        if source == "digits":
            return _share(load_digits_scenes(split))
        if path.is_file() and path.suffix == ".json":
            return _share(load_coco_file(*find_annotations(path, split)))
        if path.is_dir() and annotation_files(path):
            return _share(load_coco_folder(path, split))
    # what `datasets` saved is read from its own memory-mapped files
    if is_saved_dataset(path) or (not path.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[^/\\]+)?", source)):
        return load_hub_dataset(source, split)
    if path.is_dir():
        raise ValueError(
            f"No data set in {source}: it needs annotations/instances_<split>.json with images in <split>/ (COCO), "
            "<split>/_annotations.coco.json with images beside it (Roboflow), or what datasets saved. `dino-detr "
            "import-data` makes a COCO folder of YOLO or VOC data."
        )
    raise ValueError(
        f"No data set {source!r}: there is no such folder or .json file, it does not look like a data set on the Hub "
        "(user/name), and the only built-in data set is 'digits'."
    )


def _share(rows: Dataset) -> Dataset:
    table = rows.with_format("arrow")[:].replace_schema_metadata(rows.features.arrow_schema.metadata)
    return share_rows(table)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """While annotations are read, millions of objects are made and none is garbage: looking for it takes longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
