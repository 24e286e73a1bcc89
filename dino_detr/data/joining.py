"""Several data sets as one: classes joined by name, each row with the name of its source."""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, concatenate_datasets

from .rows import arrow_objects, arrow_table, category_ids, class_names, detection_features
from .sources.shared_rows import share_rows


def name_sources(sources: Sequence[str]) -> list[str]:
    """
    Return a name for each source: the last parts of a path, as many as tell all of them apart; a Hub id as it is.

    Raises:
        ValueError: if a source is named twice.
    """
    places = [Path(source).expanduser().resolve() for source in sources]
    for place, source in zip(places, sources):
        if places.count(place) > 1:
            raise ValueError(
                f"{source} is twice among the data sets {', '.join(sources)}: name it once (in training, "
                "dataset_weights shows its images more often)"
            )
    parts = [place.parts if place.exists() else (source,) for place, source in zip(places, sources)]
    names = list(sources)
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def join_rows(parts: Mapping[str, Dataset]) -> Dataset:
    """
    Return the rows of several sources, one after the other, with a column `source`. One alone is returned as it is.

    The classes are those of all sources in the order in which they first appear. Only equal names are one class. Their
    category ids are kept if all sources agree on them; else they are 1..K. Where image or annotation ids of a source
    occur in one before it, all of its ids are raised beyond those.

    Args:
        parts: rows, as `load_detection_dataset` gives them, by the name of their source.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    names, ids = _join_classes(list(parts.values()))
    features = detection_features(names, ids)
    features["source"] = ClassLabel(names=list(parts))
    image_ids = _tell_apart([np.asarray(rows["image_id"], dtype=np.int64) for rows in parts.values()])
    objects = [arrow_objects(rows) for rows in parts.values()]
    annotation_ids = _tell_apart([each.field("id").values.to_numpy() for each in objects])
    joined = []
    for number, rows in enumerate(parts.values()):
        index = np.array([names.index(name) for name in class_names(rows)])
        columns = {
            "image_id": pa.array(image_ids[number]),
            **{side: arrow_table(rows.select_columns([side]))[side] for side in ("width", "height")},
            "objects": _replace(objects[number], index, annotation_ids[number]),
            "source": pa.array(np.full(len(rows), number)),
        }
        own = features.copy()
        del own["image"]
        changed = share_rows(pa.table(columns).cast(own.arrow_schema))
        joined.append(concatenate_datasets([rows.select_columns(["image"]), changed], axis=1))
    return concatenate_datasets(joined)


def fit_classes(rows: Dataset, names: list[str]) -> Dataset:
    """
    Return the rows with their classes in the places that they have in `names`, which may be more.

    Raises:
        KeyError: if there is a class that `names` has not.
    """
    ids = dict(zip(class_names(rows), category_ids(rows)))
    missing = [name for name in names if name not in ids]
    ids |= {name: number for number, name in enumerate(missing, max(ids.values(), default=0) + 1)}
    place = {name: index for index, name in enumerate(names)}
    features = detection_features(names, [ids[name] for name in names])
    objects = arrow_objects(rows)
    index = np.array([place[name] for name in class_names(rows)])
    replaced = _replace(objects, index, objects.field("id").values.to_numpy())
    objects_alone = type(features)({"objects": features["objects"]})
    changed = share_rows(pa.table({"objects": replaced}).cast(objects_alone.arrow_schema))
    return concatenate_datasets([rows.remove_columns(["objects"]), changed], axis=1)


def source_names(rows: Dataset) -> list[str]:
    """Return the names of the sources that were joined; none where it is one alone."""
    return rows.features["source"].names if "source" in rows.features else []


def source_indices(rows: Dataset) -> np.ndarray:
    """Return which of `source_names` each row is of: int64 `[rows]`."""
    return np.asarray(arrow_table(rows.select_columns(["source"]))["source"], dtype=np.int64)


def describe_join(parts: Mapping[str, Dataset]) -> str:
    """Return a sentence: what was joined, and how many classes the sources share."""
    each = [
        f"{name} ({_count(len(rows), 'image')}, {_count(len(class_names(rows)), 'class', 'es')})"
        for name, rows in parts.items()
    ]
    holders = _holders(parts)
    shared = sum(len(sources) > 1 for sources in holders.values())
    together = f"{shared} of them in several sources" if shared else "no source has a class of another"
    in_all = f"{_count(len(holders), 'class', 'es')} in all, {together}"
    return f"{len(parts)} sources, their classes joined by name: {', '.join(each)}; {in_all}"


def find_pitfalls(parts: Mapping[str, Dataset]) -> list[str]:
    """Return a sentence for each thing that joining these sources may not do as was meant."""
    holders = _holders(parts)
    sentences = []
    alike = defaultdict(list)
    for name in holders:
        alike[_plain(name)].append(name)
    for group in alike.values():
        for one, other in combinations(group, 2):
            if not holders[one] & holders[other]:
                sentences.append(
                    f"{one!r} of {min(holders[one])} and {other!r} of {min(holders[other])} are two classes, being "
                    "spelled in two ways: rename one in its annotations if they mean the same"
                )
    for name, part in parts.items():
        absent = [other for other in holders if other not in class_names(part)]
        if absent:
            shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            sentences.append(
                f"{name} has no class {shown}: if such objects are in its images, they are background in training and "
                "detections of them are false in the AP of the whole"
            )
    return sentences


def _join_classes(parts: list[Dataset]) -> tuple[list[str], list[int]]:
    pairs = dict.fromkeys(pair for rows in parts for pair in zip(class_names(rows), category_ids(rows)))
    names = list(dict.fromkeys(name for name, _ in pairs))
    ids = list(dict.fromkeys(number for _, number in pairs))
    agreed = len(pairs) == len(names) == len(ids)
    return names, ids if agreed else list(range(1, len(names) + 1))


def _tell_apart(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Raise all ids of a part beyond those before it, if one of them occurs there."""
    result = []
    for ids in parts:
        before = np.concatenate([np.empty(0, dtype=np.int64), *result])
        overlaps = np.isin(ids, before).any()
        result.append(ids + (before.max() + 1 - ids.min()) if overlaps else ids)
    return result


def _replace(objects: pa.StructArray, index: np.ndarray, ids: np.ndarray) -> pa.StructArray:
    """Return the objects with other annotation ids, and `index[category]` for each category."""
    lists = {field.name: objects.field(field.name) for field in objects.type}
    category = index[lists["category"].values.to_numpy()] if len(ids) else ids
    for name, values in (("category", category), ("id", ids)):
        lists[name] = pa.ListArray.from_arrays(lists[name].offsets, pa.array(values, pa.int64()))
    return pa.StructArray.from_arrays(list(lists.values()), names=list(lists))


def _holders(parts: Mapping[str, Dataset]) -> dict[str, set[str]]:
    """Return the sources that have each class."""
    holders = defaultdict(set)
    for source, rows in parts.items():
        for name in class_names(rows):
            holders[name].add(source)
    return dict(holders)


def _plain(name: str) -> str:
    """Return a name without case, spaces and punctuation."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())
    return plain or name


def _count(count: int, thing: str, plural: str = "s") -> str:
    return f"{count:,} {thing}{'' if count == 1 else plural}"
