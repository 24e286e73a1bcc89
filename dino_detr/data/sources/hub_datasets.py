"""Data sets of the Hugging Face Hub, or saved by `datasets`, as rows.

Their columns are `image` and `objects`, and, if there are, `image_id`, `width` and `height`. `objects` holds, as lists
or as a list of structs, `bbox` in COCO's x, y, width, height in pixels and one of the fields of `CATEGORY_FIELDS`, and,
if there are, `area`, `iscrowd` or `is_crowd`, `id` or `bbox_id`.
"""

# pyarrow makes its functions when it is imported, and the type checker does not see them
# pyright: reportAttributeAccessIssue=false

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Image,
    IterableDataset,
    LargeList,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from transformers.utils import logging

from ..decoding import read_upright_size
from ..findings import Findings
from ..numbers import read_box, read_whole, shown
from ..rows import arrow_objects, detection_features
from .columns import NumberColumn
from .shared_rows import share_rows
from .splits import choose_split
from .webdatasets import unpack_samples

logger = logging.get_logger(__name__)

HUB_PREFIX = "hf://datasets/"
CATEGORY_FIELDS = ("category", "categories", "category_id", "label", "labels")


def is_saved_dataset(folder: Path) -> bool:
    """Return whether `load_from_disk` or `load_dataset` can read a folder."""
    patterns = ["dataset_dict.json", "state.json", "**/metadata.jsonl", "**/metadata.csv"]
    patterns += [f"**/*.{suffix}" for suffix in ("parquet", "arrow", "tar")]
    return folder.is_dir() and any(next(folder.glob(pattern), None) for pattern in patterns)


def load_hub_dataset(source: str, split: str, findings: Findings | None = None) -> Dataset:
    """Read one split of `user/name`, `user/name:config`, or a folder for which `is_saved_dataset` holds.

    Raises:
        FileNotFoundError: there is no such split.
        OSError: there is no such data set on the Hub, or the Hub cannot be reached.
        ValueError: the columns are not as they must be (see `detection_rows`).
    """
    splits = {split: unpack_samples(rows) for split, rows in _load_splits(source).items()}
    name = choose_split(split, map(str, splits), source)
    try:
        return detection_rows(splits[name], [other for key, other in splits.items() if key != name], findings)
    except ValueError as error:
        raise ValueError(f"{source}, split {name!r}: {error}") from error


def list_hub_splits(source: str) -> list[str]:
    """The splits of a source that `load_hub_dataset` takes, which fetches it."""
    return [str(split) for split in _load_splits(source)]


def detection_rows(
    dataset: Dataset | IterableDataset, others: Sequence[Dataset] = (), findings: Findings | None = None
) -> Dataset:
    """The rows of `rows.py` of a data set with the columns above. Images stay as they are, unread and undecoded.

    Class names and ids are those of a `ClassLabel`; plain category ids are their own names, plain names are numbered in
    alphabetical order, and where there are both, they go together. Missing image ids, or such as are not whole numbers,
    are counted from 0; missing sizes are read from the images' headers; a missing `area` is w * h, a missing `iscrowd`
    0. Numbers may be written as text, boxes as JSON. A stream is written to the cache of `datasets` first: training
    needs its length and the images' sizes.

    Args:
        others: further splits, whose categories count too where there is no `ClassLabel`.
        findings: gets values of `area`, `iscrowd` and the ids that can be none, and that numbers are text.

    Raises:
        ValueError: columns or fields are missing, image ids repeat, categories are unknown, or boxes are not x, y,
            width, height in pixels.
    """
    if isinstance(dataset, IterableDataset):
        dataset = _write_stream(dataset)
    features = _features_of_objects(dataset)
    labels = [name for name in CATEGORY_FIELDS if name in features]
    if "bbox" not in features or not labels:
        raise ValueError(
            f"objects has the fields {', '.join(features)}; it needs bbox and one of {', '.join(CATEGORY_FIELDS)}. "
            "Rename yours with dataset.map, save the result with save_to_disk, and give its folder."
        )
    findings = Findings() if findings is None else findings
    lengths, objects = _flat_objects(dataset)
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    names, ids, category = _classes([objects, *(_flat_objects(other)[1] for other in others)], features, labels)
    boxes = _boxes(objects["bbox"], row_of)
    sizes = _sizes(dataset, findings)
    _check_boxes(boxes, sizes[row_of])
    fields = {
        "id": _annotation_ids(objects, len(boxes), findings),
        "bbox": pa.FixedSizeListArray.from_arrays(pa.array(boxes.reshape(-1)), 4),
        "category": category,
        "area": pa.array(_areas(objects, boxes, row_of, findings)),
        "iscrowd": pa.array(_crowds(objects, len(boxes), row_of, findings)),
    }
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, values) for values in fields.values()]
    columns = {
        "image_id": pa.array(_image_ids(dataset, findings)),
        "width": pa.array(sizes[:, 0]),
        "height": pa.array(sizes[:, 1]),
        "objects": pa.StructArray.from_arrays(lists, list(fields)),
    }
    features = detection_features(names, ids)
    del features["image"]
    annotations = share_rows(pa.table(columns).cast(features.arrow_schema))
    return concatenate_datasets([dataset.select_columns(["image"]).cast_column("image", Image()), annotations], axis=1)


def _load_splits(source: str) -> DatasetDict:
    """All splits: their names are needed, and their categories if these are plain numbers; `datasets` fetches all
    of them in any case."""
    folder = Path(source).expanduser()
    if folder.exists():
        try:
            return _load_folder(folder)
        except (OSError, ValueError, DatasetsError) as error:
            raise OSError(f"{_find_damaged(folder)} cannot be read, was it cut or changed? {error}") from error
    name, _, configuration = source.removeprefix(HUB_PREFIX).partition(":")
    try:
        return load_dataset(name, configuration or None)
    except OSError as error:
        raise OSError(f"There is no folder {source} here, and as a data set of the Hub: {error}") from error


def _load_folder(folder: Path) -> DatasetDict:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        saved = load_from_disk(folder)
        return saved if isinstance(saved, DatasetDict) else DatasetDict({str(saved.split or "train"): saved})
    return load_dataset(str(folder))


def _find_damaged(folder: Path) -> Path:
    """The Arrow file that is not whole, or the folder."""
    for path in sorted(folder.glob("**/*.arrow")):
        try:
            with pa.memory_map(str(path)) as file:
                pa.ipc.open_stream(file).read_all()
        except (OSError, ValueError):
            return path
    return folder


def _write_stream(stream: IterableDataset) -> Dataset:
    if stream.features is None:
        raise ValueError("the stream does not say its features: load it without streaming=True")
    logger.warning_once("A streamed data set is written to the cache first: training needs its length and image sizes")
    encoded = stream.cast_column("image", Image(decode=False))
    return Dataset.from_generator(encoded.__iter__, features=encoded.features)


def _features_of_objects(dataset: Dataset) -> dict:
    """The features of the fields of `objects`, each of one object."""
    missing = [name for name in ("image", "objects") if name not in dataset.features]
    if missing:
        raise ValueError(
            f"it has the columns {', '.join(dataset.features)}, not {', '.join(missing)}. Rename yours with "
            "dataset.rename_column, save the result with save_to_disk, and give its folder."
        )
    objects = dataset.features["objects"]
    if isinstance(objects, (List, LargeList)) and isinstance(objects.feature, dict):
        return objects.feature
    if isinstance(objects, dict):
        return {name: field.feature for name, field in objects.items() if isinstance(field, (List, LargeList))}
    raise ValueError(f"objects is {objects}; expected lists of fields, or a list of structs.")


def _flat_objects(dataset: Dataset) -> tuple[np.ndarray, dict[str, pa.Array]]:
    """Objects per row `[rows]`, and each field of all objects, end to end."""
    fields = list(_features_of_objects(dataset))
    objects = arrow_objects(dataset)
    if not pa.types.is_struct(objects.type):
        flat = pc.list_flatten(objects)
        return _lengths(objects), {name: pc.struct_field(flat, name) for name in fields}
    lists = {name: pc.struct_field(objects, name) for name in fields}
    lengths = {name: _lengths(values) for name, values in lists.items()}
    first = fields[0]
    for name in fields:
        if differ := np.flatnonzero(lengths[name] != lengths[first]).tolist():
            row = differ[0]
            raise ValueError(
                f"row {row} has {lengths[first][row]} of objects.{first}, but {lengths[name][row]} of objects.{name}."
            )
    return lengths[first], {name: pc.list_flatten(values) for name, values in lists.items()}


def _lengths(lists: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _boxes(values: pa.Array, row_of: np.ndarray) -> np.ndarray:
    """Return boxes, float64 `[boxes, 4]`."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_list_of_text(kind):
        boxes = [read_box(value) for value in values.to_pylist()]
        if None in boxes:
            wrong = boxes.index(None)
            raise ValueError(
                f"row {row_of[wrong]}: objects.bbox is {shown(values[wrong].as_py())}; expected four numbers, x, y, "
                "width, height."
            )
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)
    if not pa.types.is_nested(kind) or pa.types.is_struct(kind):
        raise ValueError(f"objects.bbox is {kind} for each object; expected four numbers, x, y, width, height.")
    wrong = np.flatnonzero(_lengths(values) != 4)
    if len(wrong):
        raise ValueError(
            f"objects.bbox is {values[int(wrong[0])].as_py()}; expected four numbers, x, y, width, height."
        )
    return pc.list_flatten(values).cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, 4)


def _is_list_of_text(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))


def _column_of(objects: dict[str, pa.Array], names: tuple[str, ...], findings: Findings) -> NumberColumn | None:
    """The first of these fields that there is."""
    for name in names:
        values = objects.get(name)
        if values is not None and not pa.types.is_nested(values.type) and not pa.types.is_null(values.type):
            return NumberColumn(values, f"objects.{name}", findings)
    return None


def _annotation_ids(objects: dict[str, pa.Array], count: int, findings: Findings) -> pa.Array:
    """Those of the data set; counted from 1 where there are none, or such as are no whole numbers."""
    column = _column_of(objects, ("id", "bbox_id"), findings)
    counted = np.arange(1, count + 1)
    if column is None:
        return pa.array(counted)
    ids, wrong = column.wholes()
    for position in np.flatnonzero(wrong):
        value = f"{shown(column.values[int(position)].as_py())}, now {counted[position]}"
        findings.add("unusable_annotation_id", f"column {column.name}", value=value)
    return pa.array(np.where(wrong | column.absent, counted, ids))


def _areas(objects: dict[str, pa.Array], boxes: np.ndarray, row_of: np.ndarray, findings: Findings) -> np.ndarray:
    """Return areas, float64 `[boxes]`."""
    own = boxes[:, 2] * boxes[:, 3]
    column = _column_of(objects, ("area",), findings)
    if column is None:
        return own
    areas, wrong = column.numbers()
    wrong = (wrong | (areas < 0)) & ~column.absent
    _name_wrong(column, wrong, row_of, "unusable_area", findings)
    return np.where(wrong | column.absent, own, areas)


def _crowds(objects: dict[str, pa.Array], count: int, row_of: np.ndarray, findings: Findings) -> np.ndarray:
    """Return crowd flags, int64 `[boxes]`, 0 or 1."""
    column = _column_of(objects, ("iscrowd", "is_crowd"), findings)
    if column is None:
        return np.zeros(count, dtype=np.int64)
    crowds, wrong = column.flags()
    _name_wrong(column, wrong, row_of, "unusable_iscrowd", findings)
    return crowds


def _name_wrong(column: NumberColumn, wrong: np.ndarray, row_of: np.ndarray, kind: str, findings: Findings) -> None:
    for position in np.flatnonzero(wrong):
        value = f"{column.name} {shown(column.values[int(position)].as_py())}"
        findings.add(kind, f"row {row_of[position]}", value=value)


def _classes(splits: list[dict], features: dict, labels: list[str]) -> tuple[list[str], list[int], pa.Array]:
    """Names and original ids of the classes, and the class index of each object of the first split."""
    for name in labels:
        feature = features[name]
        if isinstance(feature, ClassLabel):
            ids = _original_ids(feature)
            indices = splits[0][name].cast(pa.int64())
            if indices.null_count or pc.any(pc.or_(pc.less(indices, 0), pc.greater_equal(indices, len(ids)))).as_py():
                raise ValueError(f"objects.{name} has values that are not of its {len(ids)} classes.")
            return feature.names, ids, indices
    kinds = {name: str(features[name].dtype) for name in labels if isinstance(features[name], Value)}
    plain_ids = next((name for name, kind in kinds.items() if _are_ids(name, kind, splits)), None)
    plain_names = next((name for name, kind in kinds.items() if "string" in kind and name != plain_ids), None)
    field = plain_ids or plain_names
    if field is None:
        raise ValueError(f"objects.{labels[0]} is {features[labels[0]]}; expected a ClassLabel, integers or strings.")
    for split in splits:
        if split[field].null_count:
            raise ValueError(f"objects.{field} lacks a value in {split[field].null_count} objects.")
    if field == plain_ids and "int" not in kinds[field]:
        splits = [{**split, field: pa.array(map(read_whole, split[field].to_pylist()), pa.int64())} for split in splits]
    values = sorted(set().union(*(pc.unique(split[field]).to_pylist() for split in splits)))
    if field == plain_ids and (beyond := [value for value in values if read_whole(value) is None]):
        raise ValueError(f"objects.{field} has {beyond[0]}, which is beyond 63 bits.")
    indices = pc.index_in(splits[0][field], pa.array(values, splits[0][field].type)).cast(pa.int64())
    if field == plain_names:
        return values, list(range(len(values))), indices
    names = {}
    if plain_names is not None:
        for split in splits:
            names |= dict(zip(split[plain_ids].to_pylist(), split[plain_names].to_pylist()))
    return [names.get(id_) or str(id_) for id_ in values], values, indices


def _are_ids(name: str, kind: str, splits: list[dict]) -> bool:
    """Return whether a field holds category ids. They are integers, or text or floats that each say a different one."""
    if "int" in kind:
        return True
    if "string" not in kind and "float" not in kind:
        return False
    values = set().union(*(pc.unique(split[name]).to_pylist() for split in splits)) - {None}
    ids = {read_whole(value) for value in values}
    return bool(values) and None not in ids and len(ids) == len(values)


def _original_ids(feature: ClassLabel) -> list[int]:
    """Those that `detection_features` wrote there, or 0..K-1."""
    try:
        ids = json.loads(feature.id or "")
    except ValueError:
        ids = None
    return ids if isinstance(ids, list) and len(ids) == len(feature.names) else list(range(len(feature.names)))


def _image_ids(dataset: Dataset, findings: Findings) -> np.ndarray:
    """Return image ids, int64 `[rows]`."""
    counted = np.arange(len(dataset))
    if not isinstance(dataset.features.get("image_id"), Value):
        return counted
    column = NumberColumn(_column(dataset, "image_id"), "image_id", findings)
    ids, wrong = column.wholes()
    unique = len(np.unique(ids)) == len(ids)
    if pa.types.is_integer(column.values.type) and (column.absent.any() or not unique):
        raise ValueError("image_id has values that repeat or are missing; remove the column to have them counted.")
    if not wrong.any() and not column.absent.any() and unique:
        return ids
    for position, value in enumerate(column.values.to_pylist()):
        findings.add("text_id", f"row {position}", value=f"image_id {shown(value)}, now {position}")
    return counted


def _sizes(dataset: Dataset, findings: Findings) -> np.ndarray:
    """Width and height, int64 `[rows, 2]`; 0 where neither the columns nor the images say."""
    sizes = np.zeros((len(dataset), 2), dtype=np.int64)
    if {"width", "height"} <= set(dataset.features):
        columns = [NumberColumn(_column(dataset, name), name, findings).wholes()[0] for name in ("width", "height")]
        sizes = np.stack(columns, axis=1)
    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    images = dataset.select_columns(["image"]).cast_column("image", Image(decode=False)).select(unknown)
    for row, image in zip(unknown, images):
        encoded = image["image"]  # pyright: ignore[reportCallIssue, reportArgumentType]
        with suppress(OSError):  # `check_split` names it
            sizes[row] = read_upright_size(io.BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"])
    return sizes


def _column(dataset: Dataset, name: str) -> pa.Array:
    return dataset.select_columns([name]).with_format("arrow")[:][name].combine_chunks()


def _check_boxes(boxes: np.ndarray, sizes: np.ndarray) -> None:
    """Refuse what can be no x, y, width, height in pixels; both arguments are `[boxes, ...]`."""
    usable = np.isfinite(boxes).all(axis=1) & (sizes > 0).all(axis=1)
    boxes, sizes = boxes[usable], sizes[usable]
    if not len(boxes):
        return
    example = f"objects.bbox, such as {boxes[0].round(3).tolist()} in an image of {sizes[0].tolist()} pixels, "
    convert = "Convert it with dataset.map, save the result with save_to_disk, and give its folder."
    if boxes.max() <= 1:
        raise ValueError(f"{example}is never above 1: it is normalised, not in pixels. {convert}")
    outside = (boxes[:, :2] + boxes[:, 2:] > sizes + 1).any(axis=1).mean()
    as_corners = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1).mean()
    if outside > 0.5 or (outside > 0.1 and as_corners > 0.95):
        raise ValueError(
            f"{example}leaves the image in {outside:.0%} of the boxes if it is x, y, width, height. It seems to be "
            f"x1, y1, x2, y2, or of images of another size. {convert}"
        )
