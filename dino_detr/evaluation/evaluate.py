"""COCO's figures of a model on a data set, together with what they were made from."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

from datasets import Dataset
from torch import distributed
from transformers import PreTrainedModel

from ..data import category_ids, class_names
from ..data.joining import source_indices, source_names
from ..data.rows import values_of_objects
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..runs.names import FIGURES
from .coco.metric import CocoDetectionMetric
from .coco.table import format_figure, format_table
from .detections import detect, references
from .diagnosis import UNEXPLAINED_AP50, Diagnosis, LearningRate, diagnose


class EvaluationStopped(Exception):
    """
    An evaluation that was asked to stop.

    Args:
        reason: the greatest number that `stop` returned on any process.
    """

    def __init__(self, reason: int):
        super().__init__(f"the evaluation was asked to stop ({reason})")
        self.reason = reason


@dataclass(repr=False)
class Evaluation:
    """
    The detections of a model on a data set, and how good they are.

    Args:
        figures: COCO's, with `per_class`, as `CocoDetectionMetric.compute` returns them; of joined sources also
            `per_source`, `{name: COCO's figures of its images}`.
        rows: the data set that it looked at; None where a results file was scored against annotations without images.
        detections: per image `{image_id, scores [n], labels [n], boxes [n, 4] xyxy px}`, best first. Where several
            processes evaluate, the main one has those of all, the others have none.
        truth: per image that could be read `{image_id, labels [m], boxes [m, 4] xyxy px, area, iscrowd}`; likewise.
    """

    figures: dict
    rows: Dataset | None
    detections: list[dict]
    truth: list[dict]

    def __repr__(self) -> str:
        ap, ap50 = (format_figure(self.figures[name]) for name in ("AP", "AP50"))
        return f"Evaluation(AP {ap}, AP50 {ap50}, {len(self.truth):,} images)"

    def __str__(self) -> str:
        return format_table(self.figures)

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return the figures as `<prefix>_AP`, ..., and the AP of each source as `<prefix>_AP/<source>`."""
        of_sources = self.figures.get("per_source", {})
        figures = {name: self.figures[name] for name in FIGURES}
        figures |= {f"AP/{source}": each["AP"] for source, each in of_sources.items()}
        return {f"{prefix}_{name}": value for name, value in figures.items()}

    @property
    def is_unexplained(self) -> bool:
        """Whether AP50 is so low that `diagnose` has something to explain."""
        return self.figures["AP50"] < UNEXPLAINED_AP50

    def diagnose(
        self,
        trained_labels: set[int] | None = None,
        loss: tuple[float, ...] | None = None,
        rate: LearningRate | None = None,
    ) -> Diagnosis:
        """Look for the reason of an AP of about 0. The arguments are those of `diagnosis.diagnose`."""
        assert self.rows is not None, "results without their images are not diagnosed"
        annotation_ids, names = values_of_objects(self.rows, "id"), class_names(self.rows)
        return diagnose(self.detections, self.truth, annotation_ids, names, trained_labels, loss, rate)


def evaluate(
    model: PreTrainedModel,
    processor: DinoDetrImageProcessor,
    rows: Dataset,
    batch_size: int = 8,
    num_workers: int = 0,
    one_label_per_query: bool = False,
    nms_threshold: float | None = None,
    scorer: str = "numpy",
    context: AbstractContextManager | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> Evaluation:
    """
    Detect in all images of a data set and score what is found.

    Where torch's processes work together, each of them calls this. Each detects on its share of the images, detections
    are gathered once, and every process returns the figures.

    Args:
        model: on its device; its mode is evaluation's meanwhile.
        rows: as `load_detection_dataset` gives them.
        batch_size, num_workers, one_label_per_query, nms_threshold: see `detect`.
        scorer: see `CocoDetectionMetric`.
        context: entered while the model runs: autocast, say.
        stop: asked before each image whether to stop, and why: a number other than 0.

    Raises:
        EvaluationStopped: on every process, if `stop` asked for it on any.
    """
    several = distributed.is_available() and distributed.is_initialized()
    rank, processes = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
    share = range(rank, len(rows), processes)
    was_training = model.training
    model.eval()
    try:
        found = detect(
            model, processor, rows, share, batch_size, num_workers,
            one_label_per_query=one_label_per_query, nms_threshold=nms_threshold,
        )  # fmt: skip
        detections = _collect(found, nullcontext() if context is None else context, stop)
    finally:
        model.train(was_training)
    own = stop(), detections
    parts: list = [own] * processes
    if processes > 1:
        distributed.all_gather_object(parts, own)
    reasons, detections = zip(*parts)
    if any(reasons):
        raise EvaluationStopped(max(reasons))
    result: list = [None]
    if rank == 0:
        detections = [detection for part in detections for detection in part]
        truth = references(rows, detections)
        result = [_score(rows, detections, truth, scorer)]
    else:
        detections = truth = []
    if processes > 1:
        distributed.broadcast_object_list(result)
    return Evaluation(result[0], rows, detections, truth)


def _score(rows: Dataset, detections: list[dict], truth: list[dict], scorer: str) -> dict:
    """Return COCO's figures; of joined rows also those of the images of each source, as `per_source`."""
    metric = CocoDetectionMetric(category_ids(rows), class_names(rows), scorer)
    figures = metric.compute(predictions=detections, references=truth)
    if not (names := source_names(rows)):
        return figures
    sources = dict(zip(rows["image_id"], source_indices(rows)))
    figures["per_source"] = {}
    for index, name in enumerate(names):
        parts = [[image for image in images if sources[image["image_id"]] == index] for images in (detections, truth)]
        measured = metric.compute(predictions=parts[0], references=parts[1]) if parts[1] else {}
        figures["per_source"][name] = {figure: measured.get(figure, -1.0) for figure in FIGURES}
    return figures


def _collect(found: Generator[dict], context: AbstractContextManager, stop: Callable[[], int]) -> list[dict]:
    detections = []
    try:
        # closing ends the data workers: torch raises at a death wherever the run is then, in a checkpoint too
        with closing(found), context:
            while not stop() and (detection := next(found, None)) is not None:
                detections.append(detection)
    except RuntimeError:  # the signal to stop reaches data workers too
        if not stop():
            raise
    return detections
