"""What `dino-detr predict` does: a picture of each image, and files of what was found."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.decoding import describe_fault
from ..data.image_sources import find_images
from ..outputs import write_json
from .detections import Detections
from .detector import Detector, Threshold
from .entries import to_entries
from .label_formats import WRITERS, LabelledImage, claim_formats, place_image
from .output_folder import DETECTIONS, RESULTS, claim_output, name_films, name_pictures, written_files
from .predict_video import predict_video
from .video import is_video


def predict(
    checkpoint: str | Path,
    images: Iterable[str | Path],
    output: str | Path,
    threshold: Threshold | None = None,
    batch_size: int = 8,
    device: str | None = None,
    overwrite: bool = False,
    track: bool = False,
    formats: Iterable[str] = (),
    **options: Any,
) -> list[dict]:
    """
    Detect in images and videos, as the checkpoint's run evaluated. A line for each is printed.

    Writes a picture of each image with its boxes, `detections.json` and, as COCO results of every score,
    `results.json`; of each video, a video with boxes and a file of JSON lines, see `predict_video`.

    Args:
        checkpoint: folder, Hub id or export folder.
        images: files, folders, patterns, URLs or `-`, see `find_images`; videos too.
        output: the folder to write to.
        threshold: see `Detector`; what is not above it is neither drawn nor listed.
        batch_size: see `Detector.stream`.
        device: see `Detector`.
        overwrite: replace what an earlier call wrote there.
        track: follow the objects of a video from frame to frame.
        formats: what to write beside, of `coco`, `yolo`, `voc`, `csv` and `label-studio`: each into a folder of its
            name, with the images where the form wants them. What is not above the threshold is not in them.
        options: `tiles`, `overlap`, `one_label_per_query`, `nms_threshold`, see `Detector.stream`.

    Returns:
        What `detections.json` holds: of each image `{"image", "picture", "width", "height", "detections": [{"label",
        "category_id", "score", "box" [x1, y1, x2, y2] px}]}`; of one that cannot be read `{"image", "picture": None,
        "error", "detections": []}`; of a video `{"image", "picture", "frame_lines", "frames", "width", "height",
        "detections": []}`.

    Raises:
        ImportError: if a package for videos is not installed.
        FileNotFoundError: if there is no such checkpoint or image.
        FileExistsError: if `output` holds results already and `overwrite` is not given.
        ValueError: if `output` is a folder of the images, or no image can be read.
    """
    output, images = Path(output), [str(image) for image in images]
    if any(Path(name).is_dir() and Path(name).resolve() == output.resolve() for name in images):
        raise ValueError(f"--output {output} is the folder of the images; choose another, {output / 'detected'}, say")
    former = claim_output(output, overwrite)
    sources, videos = [], []
    for source in find_images(images, leave_out=output):
        (videos if is_video(source.name) else sources).append(source)
    if track and not videos:
        raise ValueError("--track follows objects through a video, and there is none")
    formats = list(formats)
    if formats and videos:
        raise ValueError(f"--format writes labels of images, and {videos[0].name} is a video")
    taken = ({path.name for path in output.iterdir()} if output.is_dir() else set()) - former
    pictures = name_pictures([source.stem for source in sources], taken)
    films = name_films([source.stem for source in videos], taken)
    detector = Detector(checkpoint, device)
    thresholds = detector.thresholds(threshold)
    claim_formats(output, formats, former, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    if detector.precision_note is not None:
        print(detector.precision_note, file=sys.stderr)
    entries, results, labelled = [], [], []
    options["batch_size"] = batch_size
    for picture, (source, found) in zip(pictures, detector.detect(sources, **options)):
        if isinstance(found, OSError):
            entries.append(_name_unreadable(source.name, found))
            continue
        entries.append(_draw(found, thresholds, output / picture))
        results += found.to_coco()
        file_name = place_image(found, Path(picture).stem, output, formats)
        labelled.append(LabelledImage(file_name, entries[-1]))
    for film, source in zip(films, videos):
        try:
            entries.append(predict_video(detector, source.name, thresholds, output / film, track, **options))
        except OSError as error:
            entries.append(_name_unreadable(source.name, error))
    names = dict(zip(detector.category_ids, detector.id2label.values()))
    for name in formats:
        WRITERS[name](output / name, labelled, names)
    for name in former - written_files(entries):
        (output / name).unlink(missing_ok=True)
    for name, content in ((DETECTIONS, entries), (RESULTS, results)):
        if overwrite:
            (output / name).unlink(missing_ok=True)
        write_json(output / name, content)
    _count_unreadable(entries, output)
    return entries


def _count_unreadable(entries: list[dict], output: Path) -> None:
    """Say how many images could not be read; it is an error if none could."""
    unread = sum("error" in entry for entry in entries)
    if unread == len(entries):
        raise ValueError(f"none of the {unread} images could be read; {output / DETECTIONS} says why")
    if unread:
        print(f"{unread} of {len(entries)} images could not be read; {output / DETECTIONS} says why", file=sys.stderr)


def _name_unreadable(name: str, error: OSError) -> dict:
    """Say why an image or a video cannot be read, and return its entry of `detections.json`."""
    why = describe_fault(error)
    print(f"{name}: cannot be read: {why}", file=sys.stderr)
    return {"image": name, "picture": None, "error": why, "detections": []}


def _draw(found: Detections, thresholds: Tensor, picture: Path) -> dict:
    """Save the picture of an image, print a line about it, and return its entry of `detections.json`."""
    kept = found[found.scores > thresholds[found.labels]]
    kept.draw().save(picture, quality=92)
    said = f"{len(kept)} detections"
    if not len(kept) and len(found):
        best = found[0]
        said = f"0 detections above {thresholds[best.label]:.2g}; the best is {best.name} {best.score:.2g}"
    print(f"{found.source.name}: {said} -> {picture}")
    height, width = found.size
    entry = {"image": found.source.name, "picture": picture.name, "width": width, "height": height}
    return entry | {"detections": to_entries(kept)}
