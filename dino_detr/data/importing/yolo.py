"""YOLO data sets, as Ultralytics' tools, Roboflow, CVAT, Label Studio and LabelImg write them.

A `data.yaml` has `names` and for each split a folder of images, a text file that lists images, or several of these,
relative to its `path`, or to the file itself; `yolo_layout.py` knows the layouts without one. The labels of
`.../images/a.jpg` are in `.../labels/a.txt`, or beside the image: a line per object, its class and then centre x,
centre y, width and height, or the corners of a polygon, as shares of the upright image's width and height.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from ..decoding import describe_fault, read_upright_size
from .imported import ImportedDataset, ImportedImage, ImportedObject
from .source_files import SourceFiles, read_text
from .yolo_layout import LAYOUTS, find_layout

_TOLERANCE = 0.01  # by which rounding may take a value out of 0..1
_UNUSED = {"image": "an image of no split", ".txt": "a text file that belongs to no image", "": "not read"}


def read_yolo(source: Path) -> ImportedDataset:
    """Read a `data.yaml`, or the folder it is in.

    Category ids are the class numbers. An image without a label file has no objects. Lines that cannot be read are
    left out and told of in `problems`.

    Raises:
        FileNotFoundError, ValueError: the data set has no images, or no names, that could be found.
    """
    layout = find_layout(source)
    data = ImportedDataset(layout.files, _UNUSED, layout.names, problems=layout.files.problems, notes=layout.notes)
    for split, paths in layout.splits.items():
        data.splits[split] = list(_read_images(paths, data, layout.with_keypoints))
    if not any(data.splits.values()):
        example = f": {data.problems[0]}" if data.problems else ""
        raise FileNotFoundError(f"{source} has no images that can be imported{example}. {LAYOUTS}")
    return data


def _read_images(paths: list[Path], data: ImportedDataset, with_keypoints: bool) -> Iterator[ImportedImage]:
    for path in paths:
        labels = _label_file(path, data.files)
        if labels is not None:
            data.files.use(labels)
        try:
            width, height = read_upright_size(path)
        except OSError as error:
            left_out = f"; {labels} is left out with it" if labels else ""
            data.files.report(path, f"not an image that can be read: {describe_fault(error)}{left_out}")
            continue
        image = ImportedImage(path, width, height)
        if labels is not None:
            image.objects += _read_labels(labels, image, data, with_keypoints)
        yield image


def _read_labels(
    labels: Path, image: ImportedImage, data: ImportedDataset, with_keypoints: bool
) -> list[ImportedObject]:
    try:
        lines = read_text(labels).splitlines()
    except OSError as error:
        data.problems.append(f"{labels}: {describe_fault(error)}")
        return []
    objects = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                objects.append(_object(line, image.width, image.height, data.names, with_keypoints))
            except ValueError as error:
                data.problems.append(f"{labels}:{number}: {error}")
    return objects


def _label_file(image: Path, files: SourceFiles) -> Path | None:
    """Return the label file of an image: in `labels/` in place of the last `images/`, or beside it."""
    folder = image.parent
    places = [folder, folder / "labels"]
    parts = [part.lower() for part in folder.parts]
    for called in ("images", "jpegimages"):
        if called in parts:
            index = len(parts) - 1 - parts[::-1].index(called)
            for name in ("labels", "Labels", "LABELS"):
                places.insert(0, Path(*folder.parts[:index], name, *folder.parts[index + 1 :]))
    places += [root / "labels" / folder.relative_to(root) for root in files.roots if folder.is_relative_to(root)]
    stems = (image.stem, image.name)  # a.txt, or a.jpg.txt
    found = (path for stem in stems for place in places for path in files.of_stem(place, stem, (".txt",)))
    return next(found, None)


def _object(line: str, width: int, height: int, names: dict[int, str], with_keypoints: bool) -> ImportedObject:
    try:
        category, *values = (float(word) for word in line.split())
    except ValueError:
        raise ValueError(f"{line.strip()!r} is not all numbers") from None
    if category not in names:
        raise ValueError(f"class {category:g} is not one of the {len(names)} that have names")
    if with_keypoints:
        values = values[:4]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"{len(values)} numbers after the class; expected 4 of a box, or a polygon's x and y")
    if not all(math.isfinite(value) and -_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        raise ValueError(f"{line.strip()!r} has values outside of 0..1, as shares of the image's size")
    if len(values) == 4:
        x, y, w, h = values
        left, top = x - w / 2, y - h / 2
    else:
        left, top = min(values[::2]), min(values[1::2])
        w, h = max(values[::2]) - left, max(values[1::2]) - top
    return ImportedObject(int(category), [left * width, top * height, w * width, h * height])
