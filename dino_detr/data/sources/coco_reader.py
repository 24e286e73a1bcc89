"""The lists of a COCO annotation file, entry by entry: what each says, and what cannot be used."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..decoding import describe_fault, kind_of_fault, read_upright_size
from ..findings import Findings
from ..image_files import list_image_files
from ..numbers import Ids, is_text, number_ids, read_box, read_flag, read_number, read_whole, shown
from ..rows import SMALLEST_SIDE
from .coco_objects import LARGEST, LARGEST_PLAIN, CocoObjects
from .file_names import ImageFiles
from .json_lists import JsonList

_READERS = {"id": read_whole, "bbox": read_box, "area": read_number, "iscrowd": read_flag}


class CocoReader:
    """Reads the lists of an annotation file; what it leaves out or fills goes to `findings`."""

    def __init__(self, annotation_file: Path, content: dict, findings: Findings):
        self.annotation_file, self.content, self.findings = annotation_file, content, findings
        self.image_ids = Ids(read_field(entry, "id") for entry in content["images"])
        self.category_ids = Ids(read_field(entry, "id") for entry in content["categories"])
        self.image_number: dict[int | str, int] = {}
        self.category_number: dict[int | str, int] = {}
        self.listed_images: set[int | str] = set()  # with those that are left out
        self.opened_images = False  # to read their sizes

    def read_categories(self) -> dict[int | str, str]:
        """Names by id."""
        categories = {}
        for number, entry in enumerate(self.content["categories"]):
            where, given = f"categories[{number}]", read_field(entry, "id")
            id_ = self.category_ids.read(given)
            if id_ is None or id_ in categories:
                what = f"repeats id {shown(given)}" if id_ in categories else why_unusable(entry)
                self.findings.add("unusable_category", self.annotation_file, value=f"{where} {what}")
                continue
            self._note_text_id(where, given, id_)
            name = entry.get("name")
            categories[id_] = str(id_ if name is None else name).encode("utf-8", "replace").decode("utf-8")
        self.category_number = number_ids(categories)
        return categories

    def list_images(self) -> dict[int | str, tuple[str, int, int]]:
        """Return (what to call it, 0, 0) by id, whether there is a file or not."""
        return {id_: (f"image {id_!r}", 0, 0) for _, id_ in self._image_entries()}

    def read_images(self, files: ImageFiles, chosen: set[int] | None) -> dict[int | str, tuple[str, int, int]]:
        """Return (path, width, height) by id of the entries at the chosen positions, of all for None."""
        entries = list(self._image_entries(files.folder, chosen))
        self.image_number = number_ids(self.listed_images)
        images, missing = {}, []
        for (entry, id_), found in zip(entries, files.find_all([entry["file_name"] for entry, _ in entries])):
            if found.path is None:
                path = os.path.join(files.folder, entry["file_name"])
                self.findings.add("missing_file", path, value=found.hint or None)
                missing.append(f"{path}, say{found.hint and f' ({found.hint})'}")
            elif size := self._read_size(entry, found.path, found.respelled):
                images[id_] = found.path, *size
        if missing and len(missing) == len(entries):
            raise FileNotFoundError(
                f"{self.annotation_file} names {len(missing)} images, and none of them exists: {missing[0]}. "
                "Put them there."
            )
        outside = [id_ for id_, (path, _, _) in images.items() if files.is_outside(path)]
        all_outside = len(outside) == len(images)
        for id_ in outside:
            self.findings.add("all_outside" if all_outside else "outside_file", images[id_][0])
            if not all_outside:
                del images[id_]
        return images

    def read_annotations(self, images: dict, class_index: dict[int | str, int]) -> CocoObjects:
        """The usable ones of these images and classes."""
        row_of = {image_id: row for row, image_id in enumerate(images)}
        paths = [path for path, _, _ in images.values()]
        objects, number, entries = CocoObjects(), 0, self.content["annotations"]
        if not isinstance(entries, JsonList):
            self._add_each(entries, 0, objects, row_of, class_index, paths)
        else:
            for text in entries.texts():
                count = objects.add_plain(text, row_of, self.listed_images, class_index)
                if count is None:
                    piece = entries.decode(text)
                    self._add_each(piece, number, objects, row_of, class_index, paths)
                    count = len(piece)
                number += count
        objects.give_ids(paths, self.findings)
        return objects

    def _add_each(
        self, entries: list, first: int, objects: CocoObjects, row_of: dict, class_index: dict, paths: list[str]
    ) -> None:
        """Add the usable ones of these entries, the first of which has that number in its file."""
        for number, entry in enumerate(entries, first):
            if not isinstance(entry, dict):
                value = f"annotations[{number}] is {shown(entry)}"
                self.findings.add("malformed_annotation", self.annotation_file, value=value)
                continue
            given = entry.get("id")
            id_ = given if type(given) is int and abs(given) < LARGEST_PLAIN else read_whole(given)
            place = self._find_image_and_class(entry, id_, row_of, class_index, paths)
            if place is None:
                continue
            row, label = place
            box = self._read_box(entry, id_, paths[row])
            if box is None:
                continue
            area, crowd = self._read_area_and_crowd(entry, id_, paths[row], box)
            if str in map(type, entry.values()) or box is not entry["bbox"]:
                self._note_text_numbers(entry, id_, paths[row])
            objects.add(id_, given, row, label, box, area, crowd)

    def note_unnamed_files(self, files: ImageFiles, images: Iterable[tuple[str, int, int]]) -> None:
        names = (str(read_field(entry, "file_name")) for entry in self.content["images"])
        named = {os.path.normpath(os.path.join(files.folder, name)) for name in names}
        named |= {os.path.normpath(path) for path, _, _ in images}
        for path in list_image_files(Path(files.folder)):
            if path not in named:
                self.findings.add("unnamed_file", path)

    def _image_entries(
        self, folder: str | None = None, chosen: set[int] | None = None
    ) -> Iterator[tuple[dict, int | str]]:
        """Those of the chosen entries that can be told apart, with their ids; if there is a folder, with file names."""
        for number, entry in enumerate(self.content["images"]):
            where, findings = f"images[{number}]", self.findings
            if chosen is not None and number not in chosen:
                findings = Findings()  # they are the other part's
            given, name = read_field(entry, "id"), read_field(entry, "file_name")
            id_ = given if type(given) is int and abs(given) < LARGEST_PLAIN else self.image_ids.read(given)
            if id_ is None or not (folder is None or _is_text(name)):
                value = f"{where} {why_unusable(entry, None if folder is None else 'file_name')}"
                findings.add("unusable_image", self.annotation_file, value=value)
                continue
            if id_ in self.listed_images:
                file = os.path.join(folder, str(name)) if folder is not None else self.annotation_file
                findings.add("repeated_image_id", file, value=f"id {shown(given)}")
                continue
            self.listed_images.add(id_)
            if findings is self.findings:
                self._note_text_id(where, given, id_)
                yield entry, id_

    def _read_size(self, entry: dict, path: str, respelled: bool) -> tuple[int, int] | None:
        """Width and height, read from the file where the entry has none; None where that is no image."""
        if respelled:
            self.findings.add("respelled_file", path, value=f"file_name {shown(entry['file_name'])}")
        given = entry.get("width"), entry.get("height")
        width, height = given if type(given[0]) is type(given[1]) is int else map(read_whole, given)
        if width and height and 0 < width < LARGEST and 0 < height < LARGEST:
            if str in map(type, given):
                value = f"width {shown(given[0])}, height {shown(given[1])}"
                self.findings.add("text_number", path, value=value)
            return width, height
        self.opened_images = True
        try:
            width, height = read_upright_size(path)
        except OSError as fault:
            self.findings.add(kind_of_fault(fault), path, value=describe_fault(fault))
            return None
        if all(side is None or side == 0 for side in given):
            self.findings.add("missing_size", path, value=f"{width} x {height}")
        else:
            value = f"{shown(given[0])} x {shown(given[1])}, the file has {width} x {height}"
            self.findings.add("wrong_size", path, value=value)
        return width, height

    def _find_image_and_class(
        self, entry: dict, id_: int | None, row_of: dict, class_index: dict, paths: list[str]
    ) -> tuple[int, int] | None:
        """Return row and class index of an annotation, or None where one of them is not known."""
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        if type(image_id) is not int:
            image_id = self.image_ids.read(image_id)
        row = row_of.get(image_id)
        if row is None:
            if image_id not in self.listed_images:  # else it went with its image
                value = f"image_id {shown(entry.get('image_id'))}"
                self.findings.add("unknown_image_id", self.annotation_file, id_, value)
            return None
        if type(category_id) is not int:
            category_id = self.category_ids.read(category_id)
        label = class_index.get(category_id)
        if label is None:
            value = f"category_id {shown(entry.get('category_id'))}"
            self.findings.add("unknown_category_id", paths[row], id_, value)
            return None
        return row, label

    def _read_box(self, entry: dict, id_: int | None, path: str) -> list[float] | None:
        given = entry.get("bbox")
        box = given if is_plain_box(given) else read_box(given)
        fault = _fault_of_box(box)
        if fault:
            self.findings.add(fault, path, id_, "bbox is None" if given is None else shown(given))
            return None
        return box

    def _read_area_and_crowd(self, entry: dict, id_: int | None, path: str, box: list[float]) -> tuple[float, int]:
        area: Any = entry.get("area")
        crowd: Any = entry.get("iscrowd")
        if not (type(area) in (int, float) and 0 <= area < LARGEST**2):
            given, area = area, read_number(area)
            if area is None or not 0 <= area < LARGEST**2:
                kind = "missing_area" if given is None else "unusable_area"
                self.findings.add(kind, path, id_, None if given is None else f"area {shown(given)}")
                area = box[2] * box[3]
        if not (type(crowd) is int and 0 <= crowd <= 1):
            given, crowd = crowd, read_flag(crowd)
            if crowd is None:
                kind = "missing_iscrowd" if given is None else "unusable_iscrowd"
                self.findings.add(kind, path, id_, None if given is None else f"iscrowd {shown(given)}")
                crowd = 0
        return area, crowd

    def _note_text_id(self, where: str, given: object, id_: int | str) -> None:
        if isinstance(given, str):
            kind = "text_id" if isinstance(id_, str) else "text_number"
            self.findings.add(kind, self.annotation_file, value=f"{where}: id {shown(given)}")

    def _note_text_numbers(self, entry: dict, id_: int | None, path: str) -> None:
        texts = [name for name, read in _READERS.items() if is_text(entry.get(name)) and read(entry[name]) is not None]
        for name, ids in (("image_id", self.image_ids), ("category_id", self.category_ids)):
            if is_text(entry.get(name)) and isinstance(ids.read(entry[name]), int):
                texts.append(name)
        if texts:
            value = ", ".join(f"{name} {shown(entry[name])}" for name in texts)
            self.findings.add("text_number", path, id_, value)


def read_field(entry: object, name: str) -> object:
    return entry.get(name) if isinstance(entry, dict) else None


def _is_text(name: object) -> bool:
    """Return whether a name is text that can be written. JSON may hold halves of characters."""
    try:
        return isinstance(name, str) and bool(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def why_unusable(entry: object, *needs: str | None) -> str:
    """Why an entry of images or categories cannot be used."""
    if not isinstance(entry, dict):
        return f"is {shown(entry)}"
    for name in filter(None, ("id", *needs)):
        value = entry.get(name)
        if value is None:
            return f"has no {name}: {shown(entry)}"
        if name == "id" and read_whole(value) is None and not (isinstance(value, str) and value.strip()):
            return f"has the id {shown(value)}, which is no whole number of up to 63 bits"
        if name != "id" and not _is_text(value):
            return f"has the {name} {shown(value)}, which is no text"
    return f"cannot be used: {shown(entry)}"


def is_plain_box(box: object) -> bool:
    """Return whether a value is a list of four numbers that can be anywhere near an image."""
    if type(box) is not list or len(box) != 4:
        return False
    return all((type(side) is float or type(side) is int) and -LARGEST < side < LARGEST for side in box)


def _fault_of_box(box: list[float] | None) -> str | None:
    """The kind of finding; None if it is four finite numbers with an extent."""
    if box is None:
        return "malformed_box"
    smaller = min(box[2], box[3])
    if smaller > SMALLEST_SIDE and is_plain_box(box):
        return None
    if not all(-LARGEST < side < LARGEST for side in box):
        return "nonfinite_box"
    return "negative_box" if smaller < 0 else "zero_sized_box"
