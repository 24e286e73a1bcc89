"""
The detector as `sahi` calls it.

sahi's own class for transformers' models takes a softmax over the classes and counts the last one as background for
models whose name it does not know; its detections of this model would be wrong without a word.
"""

from typing import Any

import numpy as np
from sahi.models.base import DetectionModel
from sahi.prediction import ObjectPrediction
from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list

from .detector import Detector


class SahiDetector(DetectionModel):
    """
    A checkpoint for `sahi.predict`; in each slice it finds what `Detector` finds there.

    ```python
    model = SahiDetector("runs/quickstart", confidence_threshold=0.4, device="cpu")
    found = get_sliced_prediction("photo.jpg", model, slice_height=320, slice_width=320)
    ```

    Args:
        model_path: as the `source` of `Detector`.
        model: a `Detector`, in place of a path.
        confidence_threshold: only scores above it, 0..1.
        device: see `Detector`.
    """

    def load_model(self) -> None:
        """Load the checkpoint."""
        self.set_model(Detector(str(self.model_path), str(self.device)))

    def set_model(self, model: Detector, **_: Any) -> None:
        """Take a detector that is loaded already."""
        self.model = model
        self.category_mapping = {str(label): name for label, name in model.id2label.items()}

    def perform_inference(self, image: np.ndarray | list[np.ndarray]) -> None:
        """Detect in an RGB array `[h, w, 3]`, or in several."""
        self.perform_batch_inference(image if isinstance(image, list) else [image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        """Detect in RGB arrays `[h, w, 3]`."""
        self._original_shapes = [image.shape for image in images]
        self._original_predictions = self.model(images, threshold=self.confidence_threshold)

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
    ) -> None:
        shifts = fix_shift_amount_list([*shift_amount_list])
        sizes = fix_full_shape_list(full_shape_list) or [None] * len(shifts)
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=[*one.box], category_id=one.label, category_name=one.name, score=one.score,
                    shift_amount=shift, full_shape=size,  # pyright: ignore[reportArgumentType] lists of whole numbers
                )
                for one in found
            ]
            for found, shift, size in zip(self._original_predictions, shifts, sizes)
        ]  # fmt: skip
