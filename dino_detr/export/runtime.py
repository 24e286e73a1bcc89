"""An export, run by its runtime and called as the detector that it was made from."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.versions import require_version

from ..modeling_dino_detr import DinoDetrObjectDetectionOutput
from ..runs.checkpoint import find_file
from ..runs.history import read_mapping

MANIFEST, FACTS = "export.json", "verification.json"  # of transformers; of this package
FORMATS = {"torch": [], "onnx": ["onnx", "onnxscript", "onnxruntime"], "openvino": ["openvino"]}  # what each needs
TRANSFORMERS = "transformers>=5.23"  # has `ExportedModel`
SMALLEST = 128  # pixels of an image's side: with less, the coarsest maps have a single cell, for which graphs are not


def is_export(source: str | Path) -> bool:
    """Tell whether a folder or Hub id is an export rather than a checkpoint."""
    return find_file(source, MANIFEST) is not None and find_file(source, FACTS) is not None


class ExportedDetector(nn.Module):
    """
    An exported detector.

    Args:
        source: folder as `dino-detr export` writes it, or the Hub id that one was pushed to.
        device: `cpu`, or what else the runtime knows; None: the CPU.

    Raises:
        FileNotFoundError: if it is no export.
        ImportError: if its runtime is not installed.
        ValueError: if the runtime has no such device, or cannot read the graph; if it is a `torch` export on the Hub.
    """

    def __init__(self, source: str | Path, device: str | None = None):
        super().__init__()
        facts = find_file(source, FACTS)
        if facts is None or find_file(source, MANIFEST) is None:
            raise FileNotFoundError(f"{source} is no export: it has no {MANIFEST} and {FACTS}")
        self.facts = read_mapping(facts)
        check_runtime(self.facts["format"])
        here = Path(source).is_dir()
        if self.facts["format"] == "torch" and not here:
            raise ValueError(
                f"{source}: a torch export is a pickle, which may run anything when it is loaded. If you trust it: "
                f"hf download {source} --local-dir FOLDER, and give the folder"
            )
        from transformers.exporters.base import ExportedModel

        try:
            # of a folder on this machine the user says by name what is run: its `.pt2` is a pickle
            self.exported = ExportedModel.from_pretrained(
                str(source),
                device=device or "cpu",
                trust_remote_code=here,
                **runner_options(self.facts["format"], self.facts["quantize"]),
            )
        except RuntimeError as error:  # OpenVINO's, of a file that is cut off, say
            raise ValueError(f"{source}: the runtime cannot load it: {str(error).strip().splitlines()[-1]}") from error
        self.config: Any = self.exported.config
        self.image_size = self.facts["image_size"]

    @property
    def device(self) -> torch.device:
        return self.exported.device

    @property
    def dtype(self) -> torch.dtype:
        return self.exported.dtype

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> DinoDetrObjectDetectionOutput:
        """
        Run the graph. Images that are smaller than it takes are padded.

        Args:
            pixel_values: `[B, 3, H, W]`, as the processor in the folder makes them.
            pixel_mask: `[B, H, W]`, 1 = image; None: all of it is.

        Raises:
            ValueError: if they are larger than a graph's one size.
        """
        if pixel_mask is None:
            pixel_mask = torch.ones(pixel_values.shape[0], *pixel_values.shape[2:], dtype=torch.int64)
        pixel_values, pixel_mask = (self._fit(x) for x in (pixel_values, pixel_mask))
        inputs = {"pixel_values": pixel_values, "pixel_mask": pixel_mask.long()}
        if self.facts["with_postprocessing"]:
            inputs["target_sizes"] = torch.ones(len(pixel_values), 2, dtype=torch.int64)
        outputs = self.run(**inputs)
        return DinoDetrObjectDetectionOutput(logits=outputs["logits"], pred_boxes=outputs["pred_boxes"])

    def run(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the graph on its own inputs and return its own outputs (see `DetectorGraph.forward`)."""
        dtype = torch.uint8 if self.facts["with_preprocessing"] else self.dtype
        values: dict[str, Any] = inputs | {"pixel_values": inputs["pixel_values"].to(dtype)}
        return dict(self.exported(**values))

    def _fit(self, x: Tensor) -> Tensor:
        """Pad images or masks to what the graph takes."""
        height, width = x.shape[-2:]
        to_height, to_width = self.image_size or (max(SMALLEST, height), max(SMALLEST, width))
        if height > to_height or width > to_width:
            raise ValueError(
                f"this export takes images of {to_height}x{to_width}, not {height}x{width}: process them with the "
                "processor in its folder"
            )
        return F.pad(x, (0, to_width - width, 0, to_height - height))


def runner_options(format: str, quantize: str | None) -> dict[str, Any]:
    """
    Return what transformers' runner of a format is to be told.

    Where the CPU has bf16, OpenVINO takes it by itself, whatever the file says: it is told the precision each time.
    Beside int8 it is bf16, which is a sixth faster than float32.
    """
    if format != "openvino":
        return {}
    return {"config": {"INFERENCE_PRECISION_HINT": "bf16" if quantize in ("bf16", "int8") else "f32"}}


def check_runtime(format: str, more: list[str] | None = None) -> None:
    """
    Check that what exports and runs a format is installed.

    Args:
        more: packages that are needed besides.

    Raises:
        ImportError: naming what to install.
    """
    require_version(TRANSFORMERS, "Exports need it: pip install --upgrade transformers")
    missing = [package for package in FORMATS[format] + (more or []) if find_spec(package) is None]
    if missing:
        raise ImportError(f"{format} needs {', '.join(missing)}: pip install 'dino-detr[export]'")
