"""YOLO data sets, as Ultralytics' tools and Roboflow write them.

A `data.yaml` has `names` (list or mapping) and for each split a folder of images, a text file that lists images, or
several of these, relative to its `path`, or to the file itself. The labels of `.../images/a.jpg` are in
`.../labels/a.txt`, or beside the image where no folder is called images: a line per object, its class and then
centre x, centre y, width and height, or the corners of a polygon, as shares of the upright image's width and height.
Without a `data.yaml`, a folder with `images/<split>/` or `<split>/images/` and the names in `classes.txt` will do.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import yaml

from .foreign import ForeignDataset, ForeignImage, ForeignObject
from .image_files import IMAGE_SUFFIXES, read_upright_size

_TOLERANCE = 0.01  # by which rounding may take a value out of 0..1


def read_yolo(source: Path) -> ForeignDataset:
    """Read a `data.yaml`, or the folder it is in.

    Category ids are the class numbers. An image without a label file has no objects. Lines that cannot be read are
    left out and told of in `problems`.

    Raises:
        FileNotFoundError, ValueError: the data set has no splits, or no names, that could be found.
    """
    description, root = _description(source)
    names = description["names"]
    names = dict(enumerate(names)) if isinstance(names, list) else {int(index): name for index, name in names.items()}
    data = ForeignDataset({index: str(name) for index, name in sorted(names.items())})
    for split in ("train", "val", "test"):
        places = description.get(split) or []
        places = [places] if isinstance(places, str) else places
        images = [image for place in places for image in _images(place, root, source, data.problems)]
        if images:
            with_keypoints = "kpt_shape" in description
            data.splits[split] = list(_read_images(images, data, with_keypoints))
    return data


def _description(source: Path) -> tuple[dict, Path]:
    """Content of the `data.yaml`, or one in its place, and the folder that its paths are relative to."""
    files = [source] if source.is_file() else sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not readable as YAML: {error}") from error
        if isinstance(content, dict) and isinstance(content.get("names"), (list, dict)):
            root = Path(content.get("path") or ".")
            if root.is_absolute():
                return content, root
            return content, file.parent / root if (file.parent / root).is_dir() else file.parent
    classes = next(
        (path for path in (source / "classes.txt", source / "labels" / "classes.txt") if path.is_file()), None
    )
    if classes is None:
        raise FileNotFoundError(f"{source} has no data.yaml with names, and no classes.txt: the classes have no names")
    lines = classes.read_text(encoding="utf-8").splitlines()
    description = {"names": [line.strip() for line in lines if line.strip()]}
    for split, others in (("train", ()), ("val", ("valid", "validation")), ("test", ())):
        places = [place for name in (split, *others) for place in (f"images/{name}", f"{name}/images")]
        description[split] = [place for place in places if (source / place).is_dir()]
    return description, source


def _images(place: str, root: Path, source: Path, problems: list[str]) -> list[Path]:
    """Of one entry of a split: a folder of images, or a text file that lists them."""
    candidates = [root / place]
    if place.startswith("../"):  # Roboflow means beside the file
        candidates.append(root / place[3:])
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        problems.append(f"{source}: {place} does not exist")
        return []
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    images = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            found = [folder / line.strip() for folder in (path.parent, root)]
            image = next((image for image in found if image.is_file()), None)
            if image is None:
                problems.append(f"{path}:{number}: there is no image {line.strip()}")
            else:
                images.append(image)
    return images


def _read_images(paths: list[Path], data: ForeignDataset, with_keypoints: bool) -> Iterator[ForeignImage]:
    for path in paths:
        try:
            width, height = read_upright_size(path)
        except OSError as error:
            data.problems.append(f"{path}: not an image that can be read: {error}")
            continue
        image = ForeignImage(path, width, height)
        labels = _label_file(path)
        if labels.is_file():
            lines = labels.read_text(encoding="utf-8", errors="replace").splitlines()
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        image.objects.append(_object(line, width, height, data.names, with_keypoints))
                    except ValueError as error:
                        data.problems.append(f"{labels}:{number}: {error}")
        yield image


def _label_file(image: Path) -> Path:
    parts = list(image.absolute().parts)
    folders = parts[:-1]
    if "images" in folders:
        parts[len(folders) - 1 - folders[::-1].index("images")] = "labels"  # the last one
    return Path(*parts).with_suffix(".txt")


def _object(line: str, width: int, height: int, names: dict[int, str], with_keypoints: bool) -> ForeignObject:
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
    return ForeignObject(int(category), [left * width, top * height, w * width, h * height])
