"""An export folder, run by its runtime and called as the detector that it was made from."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling_dino_detr import DinoDetrObjectDetectionOutput
from ..runs.history import read_mapping

MANIFEST, FACTS = "export.json", "verification.json"  # of transformers; of this package
PACKAGES = {
    "torch": [],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "openvino": ["openvino"],
}


def is_export(folder: str | Path) -> bool:
    """Tell whether a folder is an export rather than a checkpoint."""
    return (Path(folder) / MANIFEST).is_file() and (Path(folder) / FACTS).is_file()


class ExportedDetector(nn.Module):
    """
    An exported detector.

    Args:
        folder: as `dino-detr export` writes it.
        device: `cpu` or `cuda`; None: the runtime's default.

    Raises:
        FileNotFoundError: if it is no export.
        ImportError: if its runtime is not installed.
        ValueError: if its graph has another interface than a detector's: pixels that are not normalised, say.
    """

    def __init__(self, folder: str | Path, device: str | None = None):
        super().__init__()
        if not is_export(folder):
            raise FileNotFoundError(f"{folder} is no export folder: it has no {MANIFEST} and {FACTS}")
        self.facts = read_mapping(Path(folder) / FACTS)
        check_runtime(self.facts["format"])
        from transformers.exporters import ExportedModel

        # a folder on this machine, whose `.pt2` is a pickle: the user says by name what is run
        self.exported = ExportedModel.from_pretrained(str(folder), device=device, trust_remote_code=True)
        self.config: Any = self.exported.config
        self.image_size = self.facts["image_size"]

    @property
    def device(self) -> torch.device:
        return self.exported.device

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> DinoDetrObjectDetectionOutput:
        """
        Run the graph. Images smaller than a graph's one size are padded to it.

        Args:
            pixel_values: float32 `[B, 3, H, W]`, normalised.
            pixel_mask: `[B, H, W]`, 1 = image; None: all of it is.

        Raises:
            ValueError: if the graph takes no such images.
        """
        if self.facts["with_postprocessing"]:
            raise ValueError("this export gives the best boxes itself: call its `run` with target_sizes")
        if pixel_mask is None:
            pixel_mask = torch.ones(pixel_values.shape[0], *pixel_values.shape[2:], dtype=torch.int64)
        if self.image_size is not None:
            pixel_values, pixel_mask = (self._pad(x) for x in (pixel_values, pixel_mask))
        dtype = torch.uint8 if self.facts["with_preprocessing"] else torch.float32
        outputs = self.run(pixel_values=pixel_values.to(dtype), pixel_mask=pixel_mask.long())
        return DinoDetrObjectDetectionOutput(logits=outputs["logits"], pred_boxes=outputs["pred_boxes"])

    def run(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the graph on its own inputs and return its own outputs (see `DetectorGraph.forward`)."""
        return dict(self.exported(**inputs))

    def _pad(self, x: Tensor) -> Tensor:
        (height, width), (largest_height, largest_width) = x.shape[-2:], self.image_size
        if height > largest_height or width > largest_width:
            raise ValueError(
                f"this export takes images of {largest_height}x{largest_width}, not {height}x{width}: process them "
                "with the processor in its folder"
            )
        return F.pad(x, (0, largest_width - width, 0, largest_height - height))


def check_runtime(format: str) -> None:
    """
    Check that what exports and runs a format is installed.

    Raises:
        ImportError: naming what to install.
        ValueError: for another format.
    """
    from importlib.util import find_spec

    if format not in PACKAGES:
        raise ValueError(f"format {format!r} is none of {', '.join(PACKAGES)}")
    if find_spec("transformers.exporters") is None:
        raise ImportError("exports need transformers 5.23 or later: pip install --upgrade transformers")
    missing = [package for package in PACKAGES[format] if find_spec(package) is None]
    if missing:
        raise ImportError(f"{format} needs {', '.join(missing)}: pip install 'dino-detr[export]'")
