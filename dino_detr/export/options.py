"""What an export may be asked for."""

from dataclasses import dataclass

from .runtime import FORMATS, SMALLEST, check_runtime

QUANTIZATIONS = {
    "torch": ("bf16", "fp16"),
    "onnx": ("int8", "int8-weights"),
    "openvino": ("int8", "int8-weights", "bf16", "fp16"),
}
SAMPLINGS = ("plain", "gather")


@dataclass(frozen=True)
class ExportOptions:
    """
    What an export is asked for.

    Args:
        format: one of `torch`, `onnx`, `openvino`.
        image_size: height and width of all images, padding included. None: any.
        with_preprocessing, with_postprocessing: see `DetectorGraph`.
        sampling: `plain` or `gather`, see `deformable_sampling`. None: `gather` in ONNX, else `plain`.
        quantize: `int8` (weights and activations of backbone and encoder), `int8-weights`, `bf16`, `fp16`, of which
            each format has its own (`QUANTIZATIONS`). None: float32.
    """

    format: str
    image_size: tuple[int, int] | None = None
    with_preprocessing: bool = False
    with_postprocessing: bool = False
    sampling: str | None = None
    quantize: str | None = None

    def check(self) -> None:
        """
        Check the options, and that what exports and runs the format is installed.

        Raises:
            ImportError: naming what to install.
            ValueError: for a value that cannot be.
        """
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is none of {', '.join(FORMATS)}")
        if self.image_size is not None and min(self.image_size) < SMALLEST:
            raise ValueError(f"image_size {' '.join(map(str, self.image_size))}: at least {SMALLEST} pixels each way")
        if self.sampling not in (None, *SAMPLINGS):
            raise ValueError(f"sampling {self.sampling!r} is none of {', '.join(SAMPLINGS)}")
        if self.quantize not in (None, *QUANTIZATIONS[self.format]):
            raise ValueError(f"quantize {self.quantize!r}: {self.format} has {', '.join(QUANTIZATIONS[self.format])}")
        check_runtime(self.format, ["nncf"] if (self.quantize or "").startswith("int8") else [])
