"""Where images and boxes come from: data sets as rows, augmented training samples, batches."""

from pathlib import Path

from datasets import Dataset

from .coco import find_coco_splits, load_coco_folder
from .digits import NUM_SCENES, load_digits_scenes
from .findings import Findings
from .rows import category_ids, class_names

__all__ = ["category_ids", "class_names", "list_splits", "load_detection_dataset"]


def load_detection_dataset(source: str, split: str, findings: Findings | None = None) -> Dataset:
    """Load one split of a detection data set; the rows are described in `rows.py`.

    Args:
        source: `digits` (scenes of handwritten digits, generated on the spot) or a folder in COCO's or
            Roboflow's layout (`coco.py` shows both). A folder that is itself called digits is `./digits`.
        split: `train` or `val` for `digits`; for a folder, any split it holds.
        findings: gets what is left out or filled in reading. `check_split` says more.

    Raises:
        FileNotFoundError: the folder lacks the split, or all images that its annotation file names.
        ValueError: the source is neither of the above, `digits` has no such split, or nothing can be made of an
            annotation file.
    """
    if source == "digits":
        return load_digits_scenes(split)
    if Path(source).is_dir():
        return load_coco_folder(source, split, findings)
    raise _unknown(source)


def list_splits(source: str) -> list[str]:
    """The splits of a data set, as `load_detection_dataset` takes both.

    Raises:
        FileNotFoundError: a folder has none.
        ValueError: there is no such data set.
    """
    if source == "digits":
        return list(NUM_SCENES)
    if Path(source).is_dir():
        return sorted(find_coco_splits(Path(source)))
    raise _unknown(source)


def _unknown(source: str) -> ValueError:
    return ValueError(
        f"No data set {str(source)!r}: there is no such folder, and the only built-in data set is 'digits'. "
        "Data sets on the Hugging Face Hub cannot be named here yet: download one and give its folder."
    )
