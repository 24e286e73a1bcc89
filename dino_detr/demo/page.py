"""The page: pictures in, boxes out, with a threshold and classes that are changed while one looks."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.decoding import describe_fault
from ..inference import Detections, Detector
from ..inference.inputs import find_sources

MOST_DETECTORS = 2  # side by side
_LEAST_SCORE = 0.05  # what the slider goes down to


@dataclass
class Found:
    """What a detector found in the pictures, above the least score, and the seconds it took for each picture."""

    detections: list[Detections]
    seconds: float


def serve(checkpoints: Sequence[str], device: str | None = None, port: int | None = None, open_browser: bool = False):
    """
    Serve the page on loopback, until Ctrl-C.

    Args:
        checkpoints, device: see `build_page`.
        port: None: the first that is free from 7860 on.
        open_browser: show it there.

    Raises:
        ImportError: if gradio is not installed.
        OSError: if the port is taken.
    """
    page = build_page(checkpoints, device)
    page.launch(server_name="127.0.0.1", server_port=port, share=False, inbrowser=open_browser, footer_links=[])


def build_page(checkpoints: Sequence[str], device: str | None = None) -> Any:
    """
    Return a page, a `gradio.Blocks`, ready to be launched.

    Args:
        checkpoints: one, or two to be seen side by side: folders, Hub ids or export folders.
        device: see `Detector`.

    Raises:
        ImportError: if gradio is not installed.
        ValueError: if there are more than two.
    """
    gradio = import_gradio()
    if not 1 <= len(checkpoints) <= MOST_DETECTORS:
        raise ValueError(f"{len(checkpoints)} checkpoints: one, or two side by side")
    detectors = [Detector(checkpoint, device) for checkpoint in checkpoints]
    names = list(dict.fromkeys(name for detector in detectors for name in detector.id2label.values()))
    with gradio.Blocks(title="dino-detr", analytics_enabled=False) as page:
        gradio.Markdown(f"# {' and '.join(Path(name).name for name in checkpoints)}")
        found = gradio.State()
        with gradio.Row():
            with gradio.Column(min_width=320):
                files = gradio.File(label="Pictures", file_count="multiple", file_types=["image"])
                threshold = gradio.Slider(
                    _LEAST_SCORE, 1, detectors[0].threshold, step=0.01, label="Threshold", elem_id="threshold"
                )
            with gradio.Column(min_width=320):
                classes = gradio.Dropdown(names, multiselect=True, label="Classes (none: all)")
                with gradio.Row():
                    tiled = gradio.Checkbox(label="Tiles, for small objects", elem_id="tiled")
                    size = gradio.Number(
                        _usual_tile(detectors[0]),
                        label="Side of a tile, pixels",
                        precision=0,
                        minimum=16,
                        min_width=140,
                    )
        outputs = []
        with gradio.Row():
            for checkpoint in checkpoints:
                with gradio.Column(min_width=320):
                    said = gradio.Markdown(f"**{Path(checkpoint).name}**: no pictures yet")
                    gallery = gradio.Gallery(
                        label="Detections",
                        columns=4 - len(checkpoints),
                        height="auto",
                        object_fit="contain",
                        format="png",
                    )
                    download = gradio.DownloadButton("Download as COCO results", interactive=False)
                    outputs += [said, gallery, download]

        def detect(paths: list[str] | None, tiled: bool, size: int) -> list[Found]:
            return [_detect(detector, paths or [], int(size) if tiled else None) for detector in detectors]

        def show(found: list[Found] | None, threshold: float, classes: list[str]) -> list:
            shown = []
            for checkpoint, each in zip(checkpoints, found or []):
                kept = [_keep(detections, threshold, classes) for detections in each.detections]
                shown += _show(gradio, Path(checkpoint).name, kept, each.seconds)
            return shown or [gradio.skip() for _ in outputs]

        shown_by = {"fn": show, "inputs": [found, threshold, classes], "outputs": outputs}
        for event in (files.change, tiled.change, size.submit):
            event(detect, [files, tiled, size], found).then(**shown_by)
        for event in (threshold.release, threshold.input, classes.change):
            event(**shown_by, show_progress="hidden", trigger_mode="always_last")
    return page


def import_gradio() -> Any:
    """
    Return gradio.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import gradio  # pyright: ignore[reportMissingImports] an extra
    except ImportError as error:
        raise ImportError("the page needs gradio: pip install 'dino-detr[demo]'") from error
    return gradio


def _usual_tile(detector: Detector) -> int:
    """Return the side of a tile, in pixels, to begin with: what the detector's images have at most, up to 640."""
    size = detector.processor.size
    return min(640, size.longest_edge or size.width or 640)


def _detect(detector: Detector, paths: list[str], tiles: int | None) -> Found:
    gradio, found, start = import_gradio(), [], time.perf_counter()
    for source, detections in detector.detect(find_sources(paths), tiles=tiles):
        if isinstance(detections, OSError):
            gradio.Warning(f"{Path(source.name).name} cannot be read: {describe_fault(detections)}")
        else:
            found.append(detections[detections.scores > _LEAST_SCORE])
    return Found(found, (time.perf_counter() - start) / max(len(paths), 1))


def _keep(found: Detections, threshold: float, classes: list[str]) -> Detections:
    above = (found.scores > threshold).tolist()
    wanted = [kept and (not classes or name in classes) for kept, name in zip(above, found.names)]
    return found[[index for index, kept in enumerate(wanted) if kept]]


def _show(gradio: Any, name: str, found: list[Detections], seconds: float) -> list:
    """Return a line, the pictures, and the button for a detector's column."""
    pictures: list[tuple[Image.Image, str]] = []
    for each in found:
        pictures.append((each.draw(), f"{Path(each.source.name).name}: {len(each)}"))
    count = sum(map(len, found))
    line = f"**{name}**: {count} object{'' if count == 1 else 's'}, {seconds:.2f} s a picture"
    rows = [row for each in found for row in each.to_coco(Path(each.source.name).name)]
    file = Path(tempfile.mkdtemp(prefix="dino-detr-")) / "results.json"
    file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return [line, pictures, gradio.DownloadButton(value=str(file), interactive=True)]
