"""COCO's average precision as a metric of the `evaluate` library, fed batch by batch."""

import datasets
import evaluate
import numpy as np
import torch

from .results import distinct_names, plain_id
from .score import MOST_CLASSES, find_scorer, pack_detections, pack_objects, score

_DESCRIPTION = """\
Average precision and recall of detected boxes, as COCO defines them and pycocotools computes them.
"""

_INPUTS = """
Args:
    predictions: per image `{image_id, boxes [n, 4] x1 y1 x2 y2 in pixels, scores [n], labels [n]}`. An image without
        detections has empty lists, or is left out.
    references: per image `{image_id, boxes [m, 4] x1 y1 x2 y2 in pixels, labels [m], area [m], iscrowd [m]}`.
"""

_CITATION = """\
@inproceedings{lin2014microsoft,
  title={Microsoft {COCO}: Common objects in context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva
          and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle={ECCV},
  year={2014}
}
"""


class CocoDetectionMetric(evaluate.Metric):
    """COCO's twelve figures over any number of batches, in about 9 kB of memory for an image with 300 detections.

    Args:
        category_ids: the data set's own id of every class index. Labels beyond them are then an error.
        class_names: the name of every class index, likewise.
        scorer: `"numpy"`, or `"pycocotools"` for the same numbers from pycocotools itself, in twenty times the time.

    Without either, the classes are those seen in the batches.
    """

    def __init__(self, category_ids: list | None = None, class_names: list[str] | None = None, scorer: str = "numpy"):
        if category_ids is not None and class_names is not None and len(category_ids) != len(class_names):
            raise ValueError(
                f"{len(category_ids)} category_ids, {len(class_names)} class_names; give every id one name"
            )
        super().__init__()
        self._scorer = find_scorer(scorer)
        keys = category_ids if category_ids is not None else range(len(class_names or ()))
        self._class_keys = distinct_names(dict(zip(keys, class_names))) if class_names is not None else category_ids
        self._clear()

    def add_batch(self, *, predictions: list[dict], references: list[dict]) -> None:
        """Take in the detections and the annotations of some images.

        Every image comes once, its prediction in the same batch as its reference. Tensors on any device, numpy arrays
        and lists are all accepted; labels are class indices on both sides.

        Raises:
            ValueError: an image comes twice, a prediction has no reference, a field is missing or does not fit the
                others, a number is not finite, a label is not one of the known classes. The batch is not taken in.
        """
        numbers = {}
        for image_id in _image_ids(references, "references"):
            if image_id in self._numbers:
                raise ValueError(f"image {image_id!r} was added in an earlier batch; every image is counted once")
            numbers[image_id] = len(self._numbers) + len(numbers)
        predicted = _image_ids(predictions, "predictions")
        for image_id in predicted:
            if image_id not in numbers:
                raise ValueError(f"predictions: image {image_id!r} is not among the references; add both in one batch")
        if not numbers:
            return
        absent = numbers.keys() - set(predicted)
        predictions = [*predictions, *({"image_id": i, "boxes": [], "labels": [], "scores": []} for i in absent)]

        images, labels, boxes, scores = self._columns(predictions, "predictions", numbers, ("scores",))
        detections = pack_detections(images, labels, scores, boxes, precision=np.float32)
        images, labels, boxes, areas, crowds = self._columns(references, "references", numbers, ("area", "iscrowd"))
        self._detections.append(detections)
        self._objects.append(pack_objects(images, labels, boxes, areas, crowds))
        self._numbers.update(numbers)

    def add(self, *, prediction: dict, reference: dict) -> None:
        """Take in one image; see `add_batch`."""
        self.add_batch(predictions=[prediction], references=[reference])

    def compute(self, *, predictions: list[dict] | None = None, references: list[dict] | None = None) -> dict:
        """Return the figures over all that was added, and start afresh.

        Args:
            predictions, references: a last batch, as in `add_batch`.

        Returns:
            `{"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "per_class"}`:
            0..1, and -1 where there is no object to find. `per_class` is `{class: {"AP", "AP50", "AP75", "APs",
            "APm", "APl"}}`, a class being called by its name, else by its category id, else by its index.
        """
        if references is not None:
            self.add_batch(predictions=predictions or [], references=references)
        if not self._numbers:
            raise ValueError("no image to score; call add_batch(predictions=..., references=...) before compute()")
        detections, objects, numbers = self._detections, self._objects, self._numbers
        self._clear()

        # Between equal scores the order of the image ids decides, not the order of arrival.
        rank = np.empty(len(numbers), dtype="i4")
        rank[[numbers[image_id] for image_id in sorted(numbers)]] = np.arange(len(numbers))
        for block in (*detections, *objects):
            block["image"] = rank[block["image"]]
        return self._compute(detections, objects)

    def _compute(self, predictions: list[np.ndarray], references: list[np.ndarray]) -> dict:
        if self._class_keys is None:
            seen = set()
            for block in (*predictions, *references):
                seen.update(block["label"].tolist())
            labels = keys = sorted(seen)
        else:
            labels, keys = range(len(self._class_keys)), self._class_keys
        result = score(predictions, references, labels, self._scorer)
        return {**result.figures, "per_class": dict(zip(keys, result.per_class))}

    def _info(self) -> evaluate.MetricInfo:
        shared = {
            "image_id": datasets.Value("int64"),
            "boxes": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
            "labels": datasets.List(datasets.Value("int64")),
        }
        numbers, flags = datasets.List(datasets.Value("float32")), datasets.List(datasets.Value("bool"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                predictions=shared | {"scores": numbers}, references=shared | {"area": numbers, "iscrowd": flags}
            ),
            reference_urls=["https://cocodataset.org/#detection-eval"],
        )

    def _build_data_dir(self) -> None:
        """No folder: `evaluate` would write batches to its cache as Arrow files, here they stay in memory."""

    def __len__(self) -> int:
        return len(self._numbers)

    def _clear(self) -> None:
        self._numbers = {}  # of the images, by id, in the order of arrival
        self._detections, self._objects = [], []  # one packed array a batch

    def _columns(self, entries: list[dict], side: str, numbers: dict, extra: tuple[str, ...]) -> list[np.ndarray]:
        """Join the images' lists: image number, label, box as x y width height, then the `extra` fields."""
        num_classes = MOST_CLASSES if self._class_keys is None else len(self._class_keys)
        parts = []
        for entry in entries:
            image_id = plain_id(entry["image_id"])
            where = f"{side} of image {image_id!r}"
            labels, boxes, *others = (_array(entry, field, where) for field in ("labels", "boxes", *extra))
            if ((labels < 0) | (labels >= num_classes)).any():
                raise ValueError(
                    f"{where}: labels go from {labels.min():.0f} to {labels.max():.0f}, with {num_classes} classes; "
                    "give class indices from 0, not category ids"
                )
            boxes = boxes.reshape(-1, 4)
            sizes = {len(column) for column in (labels, boxes, *others)}
            if len(sizes) > 1:
                raise ValueError(f"{where}: boxes, labels, {', '.join(extra)} differ in length; give one value a box")
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            parts.append((np.full(len(labels), numbers[image_id]), labels.astype("i8"), boxes, *others))
        return [np.concatenate(column) for column in zip(*parts)]


def _image_ids(entries: list[dict], side: str) -> list:
    ids = [plain_id(entry["image_id"]) for entry in entries]
    if len(set(ids)) < len(ids):
        twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
        raise ValueError(f"{side}: image {twice!r} comes twice in one batch; every image is counted once")
    return ids


def _array(entry: dict, field: str, where: str) -> np.ndarray:
    if field not in entry:
        raise ValueError(f"{where}: the field {field!r} is missing")
    values = torch.as_tensor(entry[field], dtype=torch.float64, device="cpu").detach().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: {field} has NaN or infinite values; find where the model or the data makes them")
    return values
