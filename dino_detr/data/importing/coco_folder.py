"""Write an imported data set as a COCO folder."""

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

from ..coco_writer import to_coco
from .imported import ImportedDataset, ImportedImage
from .source_files import printable
from .voc import read_voc
from .yolo import read_yolo

_NUM_ALIKE = 3

READERS = {"yolo": read_yolo, "voc": read_voc}


def import_data(
    form: str, source: Path, output: Path, val_share: float | None = None, strict: bool = False
) -> ImportedDataset:
    """Write a data set as a COCO folder: `annotations/instances_<split>.json`, images in `<split>/`.

    Images are hard links to the source's files where the file system can, else copies. Each file of the source is used
    or, if it could hold data, named in `problems.txt`, with all else that could not be read.

    Args:
        form: of `READERS`.
        source: folder, or YOLO's `data.yaml`; it stays as it is.
        output: folder that does not exist yet, or is empty.
        val_share: the part of the images (0 < share < 1) that becomes `val`, where the source has no splits or `train`
            alone; which ones follows from their file names.
        strict: what cannot be read is an error.

    Raises:
        FileNotFoundError: there is no such source, or no images in it.
        FileExistsError: the output holds something.
        ValueError: the source is not of that form, splits are missing, or, if strict, something cannot be read.
    """
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} holds something already; choose another --output")
    data = READERS[form](source)
    taken = [image.path for images in data.splits.values() for image in images]
    problems, notes = data.files.name_rest(taken, data.unused)
    data.problems[:] = dict.fromkeys(map(printable, data.problems + problems))
    data.notes += map(printable, notes)
    if not taken:
        examples = f": {data.problems[0]}" if data.problems else ""
        raise FileNotFoundError(f"{source} has no images that can be imported{examples}")
    if strict and data.problems:
        raise ValueError("\n".join([f"{len(data.problems)} things in {source} cannot be read:", *data.problems]))
    data.names = {id_: printable(name) for id_, name in data.names.items()}
    _split(data, source, val_share)
    for split, images in data.splits.items():
        _write_split(output, split, images, data.names)
    if data.problems:
        (output / "problems.txt").write_text("\n".join(data.problems) + "\n", encoding="utf-8")
    return data


def format_problems(problems: list[str], most: int = 10) -> list[str]:
    """Return at most so many problems, no more than three that say the same of several files, and how many are left."""
    lines, alike = [], Counter()
    for problem in problems:
        said = problem.partition(": ")[2]
        alike[said] += 1
        if alike[said] <= _NUM_ALIKE and len(lines) < most:
            lines.append(problem)
    rest = len(problems) - len(lines)
    return [*lines, f"and {rest:,} more"] if rest else lines


def _split(data: ImportedDataset, source: Path, val_share: float | None) -> None:
    if val_share is None:
        if "all" in data.splits:
            raise ValueError(f"{source} has no train and val: --val_share 0.2 sets a fifth of the images aside as val")
        return
    if not 0 < val_share < 1:
        raise ValueError(f"val_share={val_share} must be between 0 and 1")
    if "val" in data.splits:
        raise ValueError(f"{source} has a val split already: leave out --val_share")
    whole = "all" if "all" in data.splits else "train"
    if len(data.splits.get(whole, [])) < 2:
        has = ", ".join(f"{split}: {len(images)}" for split, images in data.splits.items())
        raise ValueError(f"{source} has no two images that --val_share could share out among train and val ({has})")
    images = data.splits.pop(whole)
    by_hash = sorted(images, key=lambda image: hashlib.sha256(os.fsencode(image.path.name)).digest())
    num_val = min(max(1, round(val_share * len(images))), len(images) - 1)
    chosen = {id(image) for image in by_hash[:num_val]}
    data.splits["train"] = [image for image in images if id(image) not in chosen]
    data.splits["val"] = [image for image in images if id(image) in chosen]


def _write_split(output: Path, split: str, images: list[ImportedImage], names: dict[int, str]) -> None:
    folder = output / split
    folder.mkdir(parents=True)
    (output / "annotations").mkdir(exist_ok=True)
    entries, taken = [], set()
    for image_id, image in enumerate(images, start=1):
        own_name, number = Path(printable(image.path.name)), 1
        file_name = own_name.name
        while file_name.lower() in taken:  # from another folder
            number += 1
            file_name = f"{own_name.stem}_{number}{own_name.suffix}"
        taken.add(file_name.lower())
        _link(image.path, folder / file_name)
        objects = []
        for item in image.objects:
            bbox, area = [round(value, 4) for value in item.bbox], round(item.bbox[2] * item.bbox[3], 4)
            annotation = {"category_id": item.category_id, "bbox": bbox, "area": area, "iscrowd": 0}
            objects.append(annotation | ({"difficult": 1} if item.difficult else {}))
        entry = {"id": image_id, "file_name": file_name, "width": image.width, "height": image.height}
        entries.append((entry, objects))
    path = output / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(to_coco(entries, names)), encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
