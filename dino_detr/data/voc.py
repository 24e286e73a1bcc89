"""Data sets in the form of Pascal VOC: an XML file for each image.

`Annotations/*.xml`, `JPEGImages/` and lists of names in `ImageSets/Main/<split>.txt`; or, as Roboflow exports them,
folders `train/`, `valid/` and `test/` with the XML files beside the images; or all of them in one folder.

VOC counts pixels from 1, and its xmax and ymax are the box's last pixels, so a box is x = xmin - 1,
w = xmax - xmin + 1. Many tools write VOC's files without that convention; where any xmin or ymin is below 1, as cannot
be in VOC's, corners are taken as they are: x = xmin, w = xmax - xmin.
"""

import math
from pathlib import Path
from xml.etree import ElementTree

from .foreign import ForeignDataset, ForeignImage, ForeignObject
from .image_files import IMAGE_SUFFIXES, read_upright_size
from .splits import choose_split


def read_voc(source: Path) -> ForeignDataset:
    """Read a folder in one of the forms above; without lists or folders of splits, all is of one split, `all`.

    Category ids are 1..K in the alphabetical order of the names. Objects marked difficult are kept, and marked so. What
    cannot be read is left out and told of in `problems`.

    Raises:
        FileNotFoundError: the folder has no XML files.
    """
    data, found = ForeignDataset({}), {}
    for split, xml_files in _splits(source, data.problems).items():
        found[split] = [entry for path in xml_files if (entry := _read_xml(path, source, data.problems)) is not None]
    entries = [entry for split in found.values() for entry in split]
    names = sorted({name for _, objects in entries for name, _, _ in objects})
    data.names = dict(enumerate(names, start=1))
    ids = {name: id_ for id_, name in data.names.items()}
    from_one = all(min(corners[:2]) >= 1 for _, objects in entries for _, corners, _ in objects)
    if not from_one:
        data.notes.append("some xmin or ymin are below 1, so corners are taken as they are, not as VOC counts pixels")
    shift = 1 if from_one else 0
    for split, of_split in found.items():
        data.splits[split] = []
        for image, objects in of_split:
            for name, (xmin, ymin, xmax, ymax), difficult in objects:
                box = [xmin - shift, ymin - shift, xmax - xmin + shift, ymax - ymin + shift]
                image.objects.append(ForeignObject(ids[name], box, difficult))
            data.splits[split].append(image)
    return data


def _splits(source: Path, problems: list[str]) -> dict[str, list[Path]]:
    """The XML files of each split."""
    xml_folder = source / "Annotations" if (source / "Annotations").is_dir() else source
    splits = {}
    for split in ("train", "val", "test"):
        names_file = source / "ImageSets" / "Main" / f"{split}.txt"
        if names_file.is_file():
            splits[split] = []
            for number, line in enumerate(names_file.read_text(encoding="utf-8").splitlines(), start=1):
                path = xml_folder / f"{line.strip()}.xml"
                if line.strip() and path.is_file():
                    splits[split].append(path)
                elif line.strip():
                    problems.append(f"{names_file}:{number}: there is no {path}")
    if splits:
        return splits
    folders = {path.name: path for path in sorted(source.iterdir()) if path.is_dir() and any(path.glob("*.xml"))}
    for split in ("train", "val", "test"):
        if split in folders or (split == "val" and {"valid", "validation"} & set(folders)):
            splits[split] = sorted(folders[choose_split(split, folders, source)].glob("*.xml"))
    if splits:
        return splits
    if not any(xml_folder.glob("*.xml")):
        raise FileNotFoundError(
            f"{source} has no XML files: neither Annotations/*.xml, nor beside images in it or in train/, valid/"
        )
    return {"all": sorted(xml_folder.glob("*.xml"))}


def _read_xml(path: Path, source: Path, problems: list[str]) -> tuple[ForeignImage, list[tuple]] | None:
    """The image, and (name, corners, difficult) of its objects; None if there is no such image."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        line, column = error.position
        problems.append(f"{path}:{line}: not readable as XML, at column {column}: {error.msg}")
        return None
    image_path = _image_of(path, root, source)
    if image_path is None:
        problems.append(f"{path}: there is no image of it, of its own name or called {root.findtext('filename')!r}")
        return None
    try:
        image = ForeignImage(image_path, *read_upright_size(image_path))
    except OSError as error:
        problems.append(f"{image_path}: not an image that can be read: {error}")
        return None
    stated = tuple(root.findtext(f"size/{side}") for side in ("width", "height"))
    if stated not in {(None, None), ("0", "0")} and stated != (str(image.width), str(image.height)):
        problems.append(f"{path}: says {' x '.join(map(str, stated))}, the image is {image.width} x {image.height} "
                        "pixels; its boxes are kept as pixels of the image")  # fmt: skip
    objects = []
    for number, entry in enumerate(root.findall("object"), start=1):  # not of parts, which are inside of objects
        name = (entry.findtext("name") or "").strip()
        try:
            corners = [float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        except (TypeError, ValueError):
            problems.append(f"{path}: object {number} ({name}) has no bndbox of four numbers")
            continue
        if not name or not all(map(math.isfinite, corners)):
            problems.append(f"{path}: object {number} ({name}) has no name, or a bndbox that is not finite")
            continue
        objects.append((name, corners, entry.findtext("difficult", "0").strip() == "1"))
    return image, objects


def _image_of(path: Path, root: ElementTree.Element, source: Path) -> Path | None:
    """By the XML file's own name first: tools leave the `filename` inside as it was when files are renamed."""
    folders = [folder for folder in (source / "JPEGImages", path.parent, source / "images", source) if folder.is_dir()]
    for folder in folders:
        for suffix in sorted(IMAGE_SUFFIXES):
            for candidate in (folder / f"{path.stem}{suffix}", folder / f"{path.stem}{suffix.upper()}"):
                if candidate.is_file():
                    return candidate
    name = Path(root.findtext("filename") or "").name
    return next((folder / name for folder in folders if name and (folder / name).is_file()), None)
