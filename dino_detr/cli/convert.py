"""`dino-detr convert`: a published checkpoint becomes a checkpoint folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..outputs import claim_folder, fill_folder
from ..published_checkpoints import format_published

if TYPE_CHECKING:
    from torch import Tensor

PICTURE = "verification.jpg"  # what `--verify` draws
THRESHOLD = 0.5


class _List(argparse.Action):
    """Print the published checkpoints, as `--help` prints the help: whatever else is missing."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(format_published())
        parser.exit()


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("convert", help="turn a checkpoint of detrex, IDEA-Research or dgcnz into one from here")
    verb.set_defaults(run=run)
    verb.add_argument(
        "source", metavar="SOURCE", help="a file, hf://owner/repository[/file], or a name that --list prints"
    )
    verb.add_argument("--output", required=True, metavar="DIR", help="new folder to write to")
    verb.add_argument("--list", action=_List, nargs=0, help="print the published checkpoints, and nothing else")
    verb.add_argument("--reference-config", metavar="CONFIG.json", help="values that the tensors' shapes do not tell")
    verb.add_argument("--verify", metavar="IMAGE", help=f"detect in an image and draw it: DIR/{PICTURE}")


def run(options: argparse.Namespace) -> None:
    from ..hub import convert_checkpoint

    claim_folder(options.output)
    if options.reference_config and not Path(options.reference_config).is_file():
        raise FileNotFoundError(f"there is no --reference-config {options.reference_config}")
    image = _read_image(options.verify) if options.verify else None  # before a long download
    with fill_folder(options.output) as folder:
        print(convert_checkpoint(options.source, folder, options.reference_config).describe())
        if image is not None:
            print(f"{options.verify}: {_draw(folder, image)} -> {Path(options.output) / PICTURE}")
    print(f"{options.source} -> {options.output}")


def _read_image(name: str) -> Tensor:
    from ..data.decoding import describe_fault
    from ..data.image_sources import find_images

    sources = find_images([name])
    if len(sources) != 1:
        raise ValueError(f"--verify {name} is {len(sources)} images; name one")
    try:
        return sources[0].read()
    except OSError as fault:
        raise ValueError(f"--verify {name}: cannot be read: {describe_fault(fault)}") from fault


def _draw(folder: Path, image: Tensor) -> str:
    """Detect in an image with the detector of a folder, save the picture there, and return what was found."""
    from ..inference import Detector

    (detections,) = Detector(folder)(image, threshold=0.0)
    kept = detections[detections.scores > THRESHOLD]
    kept.draw().save(folder / PICTURE, quality=92)
    found = f"{len(kept)} object{'' if len(kept) == 1 else 's'} above {THRESHOLD}"
    if len(detections):
        found += f", the best: {detections[0].name} {detections[0].score:.2f}"
    return found
