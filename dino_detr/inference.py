"""Detection in images: `Detector` for their boxes, `predict` for pictures and files of them."""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from transformers import AutoImageProcessor, AutoModelForObjectDetection
from transformers.image_utils import ChannelDimension

from .data.decoding import describe_fault
from .data.image_sources import ImageSource, find_images
from .evaluation import draw_detections, to_coco_results
from .evaluation.detections import TOP_K, detect_in_batch
from .evaluation.operating_point import read_threshold
from .evaluation.precision import autocast_as_trained
from .export.runtime import ExportedDetector, is_export
from .image_processing_dino_detr import upright_rgb
from .outputs import check_writable, write_json

DETECTIONS, RESULTS = "detections.json", "results.json"  # what `predict` writes beside the pictures

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class Detector:
    """
    A checkpoint, ready to detect.

    Args:
        source: checkpoint folder, Hub id, or a folder that `dino-detr export` wrote.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None: a GPU if there is one.

    Raises:
        FileNotFoundError: if `source` is neither a folder nor a Hub id.
        ValueError: if there is no such device.
    """

    def __init__(self, source: str | Path, device: str | None = None):
        source = str(source)
        if not Path(source).is_dir() and not _is_hub_id(source):
            raise FileNotFoundError(f"no checkpoint folder {source}")
        found_device = find_device(device)  # before the weights are loaded
        if is_export(source):
            self.model: Any = ExportedDetector(source, device).eval()
        else:
            self.model = AutoModelForObjectDetection.from_pretrained(source).eval().to(found_device)
        self.processor = AutoImageProcessor.from_pretrained(source)

    @torch.no_grad()
    def __call__(
        self,
        images: Iterable[Image.Image | Tensor],
        threshold: float = 0.5,
        batch_size: int = 8,
        one_label_per_query: bool = False,
        nms_threshold: float | None = None,
    ) -> list[dict[str, Tensor]]:
        """
        Detect in images.

        Only images of one processed size are batched, so that none is padded and an image's result does not depend on
        its neighbours.

        Args:
            images: PIL images of any mode, or uint8 RGB tensors `[3, h, w]`.
            threshold: only scores above it, 0..1.
            batch_size: images at a time, at most.
            one_label_per_query, nms_threshold: as in `DinoDetrImageProcessor.post_process_object_detection`.

        Returns:
            For each image `{"scores" [n], "labels" [n], "boxes" [n, 4] xyxy px of the upright image}`, best first.
        """
        sizes, processed = [], []
        for image in images:
            if isinstance(image, Image.Image):
                image = pil_to_tensor(upright_rgb(image))
            sizes.append(tuple(image.shape[-2:]))
            inputs = self.processor([image], input_data_format=ChannelDimension.FIRST, return_tensors="pt")
            processed.append(inputs["pixel_values"])
        results: list[dict[str, Tensor]] = [{} for _ in processed]
        by_size = defaultdict(list)
        for position, pixels in enumerate(processed):
            by_size[pixels.shape].append(position)
        for positions in by_size.values():
            for start in range(0, len(positions), batch_size):
                some = positions[start : start + batch_size]
                batch = torch.cat([processed[position] for position in some])
                target_sizes = [sizes[position] for position in some]
                best = detect_in_batch(self.model, batch, target_sizes, TOP_K, one_label_per_query, nms_threshold)
                for position, (scores, labels, boxes) in zip(some, best):
                    keep = (scores > threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
                    results[position] = {"scores": scores[keep], "labels": labels[keep], "boxes": boxes[keep]}
        return results


def _is_hub_id(source: str) -> bool:
    """Tell whether a source looks like user/name, and not like a path in a folder that is here."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source).parent.is_dir()


def find_device(name: str | None) -> torch.device:
    """
    Return the device of a name; of None, a GPU if there is one, else the CPU.

    Raises:
        ValueError: if there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" computes nothing
    except Exception as error:  # each backend has its own
        lines = str(error).strip().splitlines()
        raise ValueError(f"there is no device {name!r} here: {lines[0] if lines else type(error).__name__}") from error
    return device


def predict(
    checkpoint: str | Path,
    images: Iterable[str | Path],
    output: str | Path,
    threshold: float | None = None,
    batch_size: int = 8,
    device: str | None = None,
    overwrite: bool = False,
    one_label_per_query: bool = False,
    nms_threshold: float | None = None,
) -> list[dict]:
    """
    Detect in images, as the checkpoint's run evaluated. A line for each image is printed.

    Writes a picture of each image with its boxes, `detections.json` and, as COCO results of every score,
    `results.json`.

    Args:
        checkpoint: folder or Hub id.
        images: files, folders, patterns, URLs or `-`, see `find_images`.
        output: the folder to write to.
        threshold: only detections of a score above it, 0..1, are drawn and listed. None is the score that the run's
            report found best, or 0.5.
        batch_size, one_label_per_query, nms_threshold: as of `Detector`.
        device: see `Detector`.
        overwrite: replace what an earlier call wrote there.

    Returns:
        What `detections.json` holds: of each image `{"image", "picture", "width", "height", "detections": [{"label",
        "category_id", "score", "box" [x1, y1, x2, y2] px}]}`; of one that cannot be read `{"image", "picture": None,
        "error", "detections": []}`.

    Raises:
        FileNotFoundError: if there is no such checkpoint or image.
        FileExistsError: if `output` holds results already and `overwrite` is not given.
        ValueError: if `output` is a folder of the images, or no image can be read.
    """
    output, images = Path(output), [str(image) for image in images]
    if any(Path(name).is_dir() and Path(name).resolve() == output.resolve() for name in images):
        raise ValueError(f"--output {output} is the folder of the images; choose another, {output / 'detected'}, say")
    former = _claim(output, overwrite)
    sources = find_images(images, leave_out=output)
    taken = {path.name for path in output.iterdir()} if output.is_dir() else set()
    pictures = name_pictures([source.stem for source in sources], taken - former)
    threshold = read_threshold(checkpoint) if threshold is None else threshold
    detector = Detector(checkpoint, device)
    output.mkdir(parents=True, exist_ok=True)
    as_trained, sentence = autocast_as_trained(checkpoint, detector.model.device)
    if sentence is not None:
        print(sentence, file=sys.stderr)
    config = detector.model.config
    category_ids = config.category_ids or list(range(config.num_labels))
    entries, results = [], []
    with as_trained:
        for start in range(0, len(sources), batch_size):
            some = sources[start : start + batch_size]
            contents = [_read(source) for source in some]
            readable = [pixels for pixels in contents if isinstance(pixels, Tensor)]
            found = iter(detector(readable, 0.0, batch_size, one_label_per_query, nms_threshold))
            for source, pixels, picture in zip(some, contents, pictures[start:]):
                if isinstance(pixels, str):
                    print(f"{source.name}: cannot be read: {pixels}", file=sys.stderr)
                    entries.append({"image": source.name, "picture": None, "error": pixels, "detections": []})
                    continue
                detections = next(found)
                entries.append(_draw(source, pixels, detections, threshold, config, category_ids, output / picture))
                # `evaluate` takes the file's name for an image id
                results += to_coco_results([{"image_id": Path(source.name).as_posix(), **detections}], category_ids)
    for name in former - {entry["picture"] for entry in entries}:
        (output / name).unlink(missing_ok=True)
    for name, content in ((DETECTIONS, entries), (RESULTS, results)):
        if overwrite:
            (output / name).unlink(missing_ok=True)
        write_json(output / name, content)
    unread = sum("error" in entry for entry in entries)
    if unread == len(entries):
        raise ValueError(f"none of the {unread} images could be read; {output / DETECTIONS} says why")
    if unread:
        print(f"{unread} of {len(entries)} images could not be read; {output / DETECTIONS} says why", file=sys.stderr)
    return entries


def _read(source: ImageSource) -> Tensor | str:
    """Return an image's pixels, uint8 `[3, h, w]`, or why it cannot be read."""
    try:
        return source.read()
    except OSError as fault:
        return describe_fault(fault)


def _draw(
    source: ImageSource,
    pixels: Tensor,
    detections: dict[str, Tensor],
    threshold: float,
    config: Any,
    category_ids: list[int],
    picture: Path,
) -> dict:
    """Save the picture of an image, print a line about it, and return its entry of `detections.json`."""
    keep = detections["scores"] > threshold
    kept = {name: values[keep] for name, values in detections.items()}
    image = to_pil_image(pixels)
    draw_detections(image, kept, config.id2label).save(picture, quality=92)
    found = f"{len(kept['scores'])} detections"
    if not keep.any() and len(keep):
        best, label = detections["scores"][0].item(), config.id2label[int(detections["labels"][0])]
        found = f"0 detections above {threshold:.2g}; the best is {label} {best:.2g}"
    print(f"{source.name}: {found} -> {picture}")
    entry = {"image": source.name, "picture": picture.name, "width": image.width, "height": image.height}
    entry["detections"] = [
        {
            "label": config.id2label[label],
            "category_id": category_ids[label],
            "score": round(score, 8),  # coarser ones would give another AP
            "box": [round(value, 4) for value in box],
        }
        for score, label, box in zip(*(kept[name].tolist() for name in ("scores", "labels", "boxes")))
    ]
    return entry


def name_pictures(stems: list[str], taken: set[str]) -> list[str]:
    """Return a name for the picture of each image: different from one another and, in any case, from those taken."""
    count = Counter(stem.casefold() for stem in stems)
    taken = {name.casefold() for name in taken}
    plain = {f"{stem}.jpg" for stem, times in count.items() if times == 1}  # for those who ask for them alone
    numbers, names = Counter(), []
    for stem in stems:
        key, name = stem.casefold(), f"{stem}.jpg"
        while name.casefold() in taken or (count[key] > 1 and (not numbers[key] or name.casefold() in plain)):
            numbers[key] += 1
            name = f"{stem}_{numbers[key]}.jpg"
        taken.add(name.casefold())
        names.append(name)
    return names


def _claim(output: Path, overwrite: bool) -> set[str]:
    """
    Check the output folder. Returns the pictures that an earlier predict wrote there, which may be replaced.

    Raises:
        FileExistsError: if it holds results already and `overwrite` is not given.
    """
    check_writable(output, "output")
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; choose another --output")
    there = [name for name in (DETECTIONS, RESULTS) if (output / name).exists()]
    if not there:
        return set()
    if not overwrite:
        raise FileExistsError(f"{output} holds detections already: choose another --output, or give --overwrite")
    try:
        former = _pictures_of(json.loads((output / DETECTIONS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"--overwrite: {output / DETECTIONS} is not predict's; choose another --output") from error
    return former


def _pictures_of(entries: list[dict]) -> set[str]:
    """
    Return the pictures that a `detections.json` names.

    Raises:
        ValueError, TypeError, KeyError: if it is not one that predict wrote.
    """
    if not isinstance(entries, list) or any(type(entry["detections"]) is not list for entry in entries):
        raise ValueError("no list of detections")
    pictures = {entry["picture"] for entry in entries} - {None}
    return {name for name in pictures if Path(name).name == name}
