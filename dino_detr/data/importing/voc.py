"""Data sets in the form of Pascal VOC: an XML file for each image.

`Annotations/*.xml`, `JPEGImages/` and lists of names in `ImageSets/Main/<split>.txt`; or folders called after splits
(Roboflow's `train/`, `valid/` and `test/` with the XML files beside the images, say); or neither, which is one split.
XML files and images may be in any folders, also in folders of these: an image is known by its name.

VOC counts pixels from 1, and its xmax and ymax are the box's last pixels, so a box is x = xmin - 1,
w = xmax - xmin + 1. Many tools write VOC's files without that convention; where any xmin or ymin is below 1, as cannot
be in VOC's, corners are taken as they are: x = xmin, w = xmax - xmin.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ..decoding import describe_fault, read_upright_size
from ..sources.file_names import count_common_end
from .imported import ImportedDataset, ImportedImage, ImportedObject
from .source_files import SPLIT_NAMES, SourceFiles, is_image, read_text
from .voc_xml import VocFile, read_voc_xml

_UNUSED = {"image": "an image without an XML file in a split", ".xml": "an XML file in no split", "": "not read"}
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img")
_XML_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels")


def read_voc(source: Path) -> ImportedDataset:
    """Read a folder in one of the forms above; without lists or folders of splits, all is of one split, `all`.

    Category ids are 1..K in the alphabetical order of the names. Objects marked difficult are kept, and marked so. What
    cannot be read is left out and told of in `problems`.

    Raises:
        FileNotFoundError: the folder has no XML files.
    """
    if not source.is_dir():
        raise NotADirectoryError(f"{source} is a file; VOC data are a folder")
    files = SourceFiles([source])
    data = ImportedDataset(files, _UNUSED, {}, problems=files.problems)
    xml_files = files.of_suffix(".xml")
    if not xml_files:
        raise FileNotFoundError(
            f"{source} has no XML files: neither Annotations/*.xml, nor beside images in it or in train/, valid/"
        )
    images = _Images(files)
    found = {}
    for split, paths in _splits(xml_files, data).items():
        found[split] = [entry for path in paths if (entry := _read_image(path, images, files)) is not None]
    everything = [content for entries in found.values() for _, content in entries]
    names = sorted({name for content in everything for name, _, _ in content.objects})
    data.names = dict(enumerate(names, start=1))
    ids = {name: id_ for id_, name in data.names.items()}
    from_one = all(min(corners[:2]) >= 1 for content in everything for _, corners, _ in content.objects)
    if not from_one:
        data.notes.append("some xmin or ymin are below 1, so corners are taken as they are, not as VOC counts pixels")
    shift = 1 if from_one else 0
    for split, entries in found.items():
        for image, content in entries:
            for name, (xmin, ymin, xmax, ymax), difficult in content.objects:
                box = [xmin - shift, ymin - shift, xmax - xmin + shift, ymax - ymin + shift]
                image.objects.append(ImportedObject(ids[name], box, difficult))
        data.splits[split] = [image for image, _ in entries]
    return data


def _splits(xml_files: list[Path], data: ImportedDataset) -> dict[str, list[Path]]:
    """Return the XML files of each split."""
    splits = _splits_of_lists(xml_files, data)
    if splits:
        return splits
    return data.files.by_split(xml_files) or {"all": xml_files}


def _splits_of_lists(xml_files: list[Path], data: ImportedDataset) -> dict[str, list[Path]]:
    """Return the XML files that the lists of `ImageSets/` name, {} where there is none of a split."""
    lists: dict[str, list[Path]] = defaultdict(list)
    for path in data.files.of_suffix(".txt"):
        folders = [part.lower() for part in path.parent.parts]
        if "imagesets" not in folders:
            continue
        data.files.use(path)  # those of a class, of parts and of masks add nothing to the boxes
        if folders[-1] in ("imagesets", "main"):
            lists[path.stem.lower()].append(path)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in xml_files:
        by_stem[path.stem].append(path)
    splits = {}
    for split, stems in (*SPLIT_NAMES.items(), ("trainval", ("trainval",))):
        paths = next((lists[stem] for stem in stems if stem in lists), [])
        if paths:
            listed = [path for file in paths for path in _files_of_list(file, by_stem, data.files)]
            splits[split] = list(dict.fromkeys(listed))
    both = splits.pop("trainval", None)
    if both is not None and "train" not in splits:
        others = {path for paths in splits.values() for path in paths}
        splits["train"] = [path for path in both if path not in others]
        data.notes.append("there is no train.txt: train is what trainval.txt has and no other list")
    return splits


def _files_of_list(file: Path, by_stem: dict[str, list[Path]], files: SourceFiles) -> Iterator[Path]:
    root = next(folder.parent for folder in file.parents if folder.name.lower() == "imagesets")
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        path = _file_of_line(line, by_stem, root)
        if path is not None:
            yield path
        else:
            missing = root / "Annotations" / f"{line.strip()}.xml"
            files.problems.append(f"{file}:{number}: there is no {missing}")


def _file_of_line(line: str, by_stem: dict[str, list[Path]], root: Path) -> Path | None:
    """Return the XML file that a line of a list names: maybe in quotes, with folders, a suffix, or VOC's flag."""
    text = line.strip().strip("\ufeff").strip()
    texts = [text, re.sub(r"\s+-?[01]$", "", text)]
    for name in dict.fromkeys(text.strip("\"'").strip().replace("\\", "/") for text in texts):
        path = Path(name)
        known = path.suffix.lower() == ".xml" or is_image(path)
        for stem in dict.fromkeys([name, str(path.with_suffix("")) if known else name]):
            candidates = by_stem.get(stem.rpartition("/")[2], [])
            within = [candidate for candidate in candidates if candidate.is_relative_to(root)]
            chosen = _most_alike(Path(stem).parent, within or candidates, root)
            if chosen is not None:
                return chosen
    return None


def _most_alike(folder: Path, candidates: list[Path], root: Path) -> Path | None:
    """Return the file with the most of the last folders of `folder`; None if several have as many."""
    wanted = [part.lower() for part in folder.parts]

    def common(path: Path) -> tuple[int, bool]:
        parts = [part.lower() for part in path.parent.parts]
        return count_common_end(wanted, parts), path.parent.parent == root and path.parent.name.lower() in _XML_FOLDERS

    best = sorted(candidates, key=common, reverse=True)
    return best[0] if best and (len(best) == 1 or common(best[0]) != common(best[1])) else None


def _read_image(path: Path, images: "_Images", files: SourceFiles) -> tuple[ImportedImage, VocFile] | None:
    """Return an image and what its XML file says; None, and problems, if one of them cannot be read."""
    files.use(path)
    try:
        content = read_voc_xml(path)
    except (ValueError, OSError) as error:
        message = f"{path}:{error if isinstance(error, ValueError) else f' {describe_fault(error)}'}"
        left_out = images.find(path, VocFile("", "", None))
        if isinstance(left_out, Path):
            files.use(left_out)
            message += f"; {left_out} is left out with it"
        files.problems.append(message)
        return None
    image_path = images.find(path, content)
    if isinstance(image_path, str):
        files.report(path, image_path)
        return None
    first = images.taken.setdefault(image_path, path)
    if first != path:
        files.report(path, f"{image_path} is described by {first} already")
        return None
    try:
        image = ImportedImage(image_path, *read_upright_size(image_path))
    except OSError as error:
        files.report(image_path, f"not an image that can be read: {describe_fault(error)}; {path} is left out with it")
        return None
    if content.size is not None and content.size != (image.width, image.height):
        width, height = content.size
        files.report(path, f"says {width:g} x {height:g}, the image is {image.width} x {image.height} pixels; its "
                     "boxes are kept as pixels of the image")  # fmt: skip
    for fault in content.faults:
        files.report(path, fault)
    return image, content


class _Images:
    """Finds the image of an XML file, and remembers which have one."""

    def __init__(self, files: SourceFiles):
        self.taken: dict[Path, Path] = {}
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in files.images():
            self._by_stem[path.stem].append(path)
            self._by_name[path.name.lower()].append(path)

    def find(self, xml_file: Path, content: VocFile) -> Path | str:
        """
        Return the image of an XML file, or why there is none.

        Its own name counts before the `filename` inside, which tools leave as it was when files are renamed.
        """
        written = content.file_name.replace("\\", "/")
        candidates = self._by_stem.get(xml_file.stem) or self._by_name.get(xml_file.stem.lower(), [])  # or a.jpg.xml
        named = [path for path in candidates if path.name == Path(written).name]
        candidates = named or candidates or self._by_name.get(Path(written).name.lower(), [])
        if not candidates:
            return f"there is no image of it, of its own name or called {content.file_name or None!r}"
        hint = Path(content.folder.replace("\\", "/"), written).parent
        ranked = sorted(candidates, key=lambda path: self._rank(path, xml_file, hint))
        first, second = ranked[0], ranked[-1] if len(ranked) == 1 else ranked[1]
        if first.with_suffix("") != second.with_suffix("") and (
            self._rank(first, xml_file, hint) == self._rank(second, xml_file, hint)
        ):
            return f"its image may be {first} or {second}"
        return first

    def _rank(self, image: Path, xml_file: Path, hint: Path) -> tuple:
        """Sort images of one name: beside the XML file, then in folders that are called alike, then by `filename`."""
        own, theirs = _plain_folders(image), _plain_folders(xml_file)
        said = [part.lower() for part in hint.parts]
        as_said = bool(said) and [part.lower() for part in image.parent.parts][-len(said) :] == said
        distance = len(set(own) ^ set(theirs))
        in_usual_folder = image.parent.name.lower() in _IMAGE_FOLDERS
        return distance, image.parent != xml_file.parent, not as_said, not in_usual_folder, len(image.parts)


def _plain_folders(path: Path) -> list[str]:
    """Return the folders of a file but for those that only say which kind of files they hold."""
    parts = [part.lower() for part in path.parent.parts]
    return [f"{index} {part}" for index, part in enumerate(p for p in parts if p not in _IMAGE_FOLDERS + _XML_FOLDERS)]
