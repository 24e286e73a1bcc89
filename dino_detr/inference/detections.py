"""What a detector found in one image."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from ..evaluation import draw_detections, to_coco_results
from .inputs import Source

if TYPE_CHECKING:
    import supervision


class Detection(NamedTuple):
    """One object: its class, score 0..1, class index and box xyxy in pixels."""

    name: str
    score: float
    label: int
    box: tuple[float, float, float, float]


@dataclass(repr=False, eq=False)
class Detections:
    """
    The objects found in one image, best first.

    `found[0]` is a `Detection`; a slice, a mask or a tensor of indices selects some of them: `found[found.scores >
    0.9]`. The field names are transformers': `found["boxes"]` is `found.boxes`, as in the dicts of
    `post_process_object_detection`.

    Args:
        boxes: float32 `[n, 4]`, xyxy in pixels of the upright image.
        scores: float32 `[n]`, 0..1.
        labels: int64 `[n]`, class indices.
        size: height and width of the image in pixels.
        id2label: name of each class index.
        category_ids: the data set's id of each class index.
        source: where the image comes from.
        image: its pixels, uint8 `[3, h, w]`; None where they are not kept.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    size: tuple[int, int]
    id2label: dict[int, str]
    category_ids: list
    source: Source
    image: Tensor | None = field(default=None)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.id2label[label] for label in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        columns = (self.names, self.scores.tolist(), self.labels.tolist(), map(tuple, self.boxes.tolist()))
        return (Detection(*row) for row in zip(*columns))

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: str) -> Tensor: ...
    @overload
    def __getitem__(self, index: "slice | Tensor | np.ndarray | Sequence") -> "Detections": ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}[index]
        if isinstance(index, (int, np.integer)):
            return next(iter(self[[index]]))
        columns = {name: self[name][index] for name in ("boxes", "scores", "labels")}
        return replace(self, **columns)

    def __repr__(self) -> str:
        counts = Counter(self.names).most_common(4)
        found = ", ".join(f"{count} {name}" for name, count in counts) or "nothing"
        more = len(set(self.names)) - len(counts)
        found += f" and {more} more classes" if more > 0 else ""
        best = f", scores {self.scores.min():.2f} to {self.scores.max():.2f}" if len(self) else ""
        return f"Detections({self.source.name}: {found}{best})"

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """
        Return a picture of the image with boxes, classes and scores.

        Args:
            image: to draw on, upright; None: the image itself, which is read again unless its pixels were kept.

        Raises:
            OSError: if it cannot be read again.
        """
        canvas: Any = image
        if image is None:
            canvas = to_pil_image(self.source.read() if self.image is None else self.image)
        return draw_detections(canvas, {name: self[name] for name in ("boxes", "scores", "labels")}, self.id2label)

    def to_coco(self, image_id: int | str | None = None) -> list[dict]:
        """
        Return rows of a COCO result file, `{image_id, category_id, bbox [x, y, width, height] px, score}`.

        Args:
            image_id: of the data set; None: the path or URL of the image, by which `dino-detr evaluate` finds it.
        """
        image_id = Path(self.source.name).as_posix() if image_id is None else image_id
        columns = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        return to_coco_results([{"image_id": image_id, **columns}], self.category_ids)

    def to_supervision(self) -> "supervision.Detections":
        """
        Return them as Roboflow's supervision has them; `data["class_name"]` holds the names.

        Raises:
            ImportError: if supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs supervision: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
