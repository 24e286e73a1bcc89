"""Where images and boxes come from: data sets as rows, augmented training samples, batches."""

from pathlib import Path

from datasets import Dataset

from .coco import load_coco_folder
from .digits import load_digits_scenes
from .rows import category_ids, class_names

__all__ = ["category_ids", "class_names", "load_detection_dataset"]


def load_detection_dataset(source: str, split: str) -> Dataset:
    """Load one split of a detection data set; the rows are described in `rows.py`.

    Args:
        source: `digits` (scenes of handwritten digits, generated on the spot) or a folder in COCO's or
            Roboflow's layout (`coco.py` shows both). A folder that is itself called digits is `./digits`.
        split: `train` or `val` for `digits`; for a folder, any split it holds.

    Raises:
        FileNotFoundError: the folder lacks the split, or images that its annotation file names.
        ValueError: the source is neither of the above, `digits` has no such split, or an annotation file
            is damaged.
    """
    if source == "digits":
        return load_digits_scenes(split)
    if Path(source).is_dir():
        return load_coco_folder(source, split)
    raise ValueError(
        f"No data set {str(source)!r}: there is no such folder, and the only built-in data set is 'digits'. "
        "Data sets on the Hugging Face Hub cannot be named here yet: download one and give its folder."
    )
