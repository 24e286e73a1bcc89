"""The detector as an exporter sees it: what goes in, what comes out."""

from typing import Any

import torch
from torch import Tensor

from ..boxes import cxcywh_to_xyxy
from ..image_processing_dino_detr import DinoDetrImageProcessor
from ..modeling_dino_detr import DinoDetrForObjectDetection
from ..pretrained import DinoDetrPreTrainedModel


class DetectorGraph(DinoDetrPreTrainedModel):
    """
    A detector with what is asked for before and after it, and nothing else among its outputs.

    Args:
        detector: in eval mode.
        processor: whose mean, standard deviation and `top_k` are used.
        with_preprocessing: take uint8 RGB images `[B, 3, H, W]` and normalise them.
        with_postprocessing: return the best detections too, in pixels of `target_sizes`.
        with_stages: return also what each part of the detector gives, to find where two runtimes part.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        detector: DinoDetrForObjectDetection,
        processor: DinoDetrImageProcessor,
        with_preprocessing: bool = False,
        with_postprocessing: bool = False,
        with_stages: bool = False,
    ):
        super().__init__(detector.config)  # without `post_init`, for the detector has its weights
        self.detector = detector
        self.top_k = processor.top_k
        self.with_preprocessing, self.with_postprocessing = with_preprocessing, with_postprocessing
        self.with_stages = with_stages
        scale = 1 / processor.rescale_factor
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
        self.register_buffer("mean", mean * scale, persistent=False)
        self.register_buffer("std", std * scale, persistent=False)

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor, target_sizes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        Args:
            pixel_values: float32 `[B, 3, H, W]`, normalised, 0 in the padding; or uint8 `with_preprocessing`.
            pixel_mask: int64 `[B, H, W]`, 1 = image, 0 = padding at the right and bottom.
            target_sizes: int64 `[B, 2]`, height and width of each image in pixels, for `with_postprocessing`.

        Returns:
            `logits` `[B, Q, K]` and `pred_boxes` `[B, Q, 4]` (cxcywh in 0..1); `with_postprocessing` first `scores`
            `[B, n]`, `labels` int64 `[B, n]` and `boxes` `[B, n, 4]` (xyxy px, clipped to the image), best first.
        """
        if self.with_preprocessing:
            pixel_values = (pixel_values.float() - self.mean) / self.std * pixel_mask[:, None]
        stages: dict[str, Tensor] = {}
        handles = self._watch(stages) if self.with_stages else []
        outputs = self.detector(pixel_values, pixel_mask)
        for handle in handles:
            handle.remove()
        predictions = {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes, **stages}
        if self.with_postprocessing and target_sizes is not None:
            predictions = self._best(outputs.logits, outputs.pred_boxes, target_sizes) | predictions
        return predictions

    def _best(self, logits: Tensor, pred_boxes: Tensor, target_sizes: Tensor) -> dict[str, Tensor]:
        num_labels = logits.shape[2]
        scores, indices = logits.sigmoid().flatten(1).topk(min(self.top_k, self.config.num_queries * num_labels), dim=1)
        queries = (indices // num_labels)[..., None].expand(-1, -1, 4)
        boxes = cxcywh_to_xyxy(pred_boxes).gather(1, queries).clamp(0, 1)
        boxes = boxes * target_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
        return {"scores": scores, "labels": indices % num_labels, "boxes": boxes}

    def _watch(self, stages: dict[str, Tensor]) -> list[Any]:
        """Have each part's output put into `stages`, under its name, in the order in which they run."""

        def keep(name: str) -> Any:
            def hook(module: Any, arguments: Any, output: Any) -> None:
                stages[name] = output[-1] if isinstance(output, (list, tuple)) else output

            return hook

        return [self.detector.model.get_submodule(name).register_forward_hook(keep(name)) for name in self.stage_names]

    @property
    def stage_names(self) -> list[str]:
        """Names of the parts that `with_stages` adds to the outputs, in the order in which they run."""
        encoder = [f"encoder.layers.{i}" for i in range(self.config.encoder_layers)]
        decoder = [f"decoder.layers.{i}" for i in range(self.config.decoder_layers)]
        return ["backbone", "neck", *encoder, "query_selection", *decoder]
