"""Results of `predict` name their images by file; annotations know them by id."""

from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

from ...data.sources.file_names import count_common_end


def find_image_ids(results: Any, annotations: Any) -> Any:
    """
    Return results with the image ids of the annotations in place of the file names that `predict` writes.

    A name is that of an image if it is the same, or else if no other image's ends alike for as many folders. What is no
    name of an image stays, for the reader of results to judge.

    Args:
        results: what a COCO result file holds. If it is no list of rows, it is returned as it is.
        annotations: what a COCO annotation file holds.

    Raises:
        ValueError: if two files are taken for one image.
    """
    listed = annotations.get("images") if isinstance(annotations, dict) else None
    if not isinstance(results, list) or not isinstance(listed, list):
        return results
    images = [image for image in listed if isinstance(image, dict)]
    ids = {image.get("id") for image in images if isinstance(image.get("id"), str)}
    by_name, by_last_part = {}, defaultdict(list)
    for image in images:
        if isinstance(name := image.get("file_name"), str):
            name = name.replace("\\", "/")
            by_name[name] = image.get("id")
            by_last_part[PurePosixPath(name).name].append((name, image.get("id")))
    found: dict[str, object] = {}
    for name in {row["image_id"] for row in results if isinstance(row, dict) and isinstance(row.get("image_id"), str)}:
        alike = by_last_part.get(PurePosixPath(name).name, [])
        alike = [by_name[name]] if name in by_name else _most_alike(name, alike)
        if name not in ids and len(alike) == 1:
            found[name] = alike[0]
    _refuse_two_of_one(found)
    return [{**row, "image_id": found[row["image_id"]]} if _is_named(row, found) else row for row in results]


def _most_alike(name: str, images: list[tuple[str, object]]) -> list:
    """Return the ids of the images that share the most last parts with a name."""
    parts = PurePosixPath(name).parts
    shared = [count_common_end(parts, PurePosixPath(other).parts) for other, _ in images]
    return [id_ for (_, id_), count in zip(images, shared) if count == max(shared)]


def _is_named(row: object, found: dict) -> bool:
    return isinstance(row, dict) and isinstance(row.get("image_id"), str) and row["image_id"] in found


def _refuse_two_of_one(found: dict[str, object]) -> None:
    names = defaultdict(list)
    for name, image_id in found.items():
        names[str(image_id)].append(name)
    for image_id, same in names.items():
        if len(same) > 1:
            raise ValueError(f"{' and '.join(sorted(same))} are both taken for image {image_id}: predict one folder")
