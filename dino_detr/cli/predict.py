"""`dino-detr predict`: pictures with boxes, `detections.json`, and COCO results."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from .common import add_device, add_post_processing, check_batch_size, post_processing
from .outputs import check_writable, write_json

DETECTIONS, RESULTS = "detections.json", "results.json"


def add_parser(verbs) -> None:
    verb = verbs.add_parser("predict", help="detect in images: pictures with boxes, detections.json, COCO results")
    verb.set_defaults(run=run)
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint folder or Hub id")
    verb.add_argument(
        "images", metavar="IMAGE", nargs="+", help="files, folders, patterns, URLs; `-`: an image or names on stdin"
    )
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    verb.add_argument("--overwrite", action="store_true", help="replace what an earlier predict wrote there")
    verb.add_argument(
        "--threshold", type=float, help="least score of a detection (default: the run's best, of its report; else 0.5)"
    )
    verb.add_argument("--batch_size", type=int, default=8, help="images at a time, of one size (default: 8)")
    add_device(verb)
    add_post_processing(verb)


def run(options: argparse.Namespace) -> None:
    from ..evaluation.operating_point import read_threshold
    from ..inference import Detector, find_images
    from ..training.precision import autocast_as_trained

    check_batch_size(options)
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold {options.threshold}: a score, from 0 to 1")
    output = Path(options.output)
    if any(Path(name).is_dir() and Path(name).resolve() == output.resolve() for name in options.images):
        raise ValueError(f"--output {output} is the folder of the images; choose another, {output / 'detected'}, say")
    former = _claim(output, options.overwrite)
    sources = find_images(options.images, leave_out=output)
    pictures = name_pictures([source.stem for source in sources], taken=_names_in(output) - former)
    if options.threshold is None:
        options.threshold = read_threshold(options.checkpoint)
    detector = Detector(options.checkpoint, options.device)
    output.mkdir(parents=True, exist_ok=True)
    as_trained, said = autocast_as_trained(options.checkpoint, detector.model.device)
    if said is not None:
        print(said, file=sys.stderr)
    entries, rows = [], []
    with as_trained:
        for start in range(0, len(sources), options.batch_size):
            some = slice(start, start + options.batch_size)
            for entry, its_rows in _predict_some(detector, sources[some], pictures[some], output, options):
                entries.append(entry)
                rows += its_rows
    for name in former - {entry["picture"] for entry in entries}:
        (output / name).unlink(missing_ok=True)
    for name in (DETECTIONS, RESULTS) if options.overwrite else ():
        (output / name).unlink(missing_ok=True)
    write_json(output / DETECTIONS, entries)
    write_json(output / RESULTS, rows)
    unread = sum("error" in entry for entry in entries)
    if unread == len(entries):
        raise ValueError(f"none of the {unread} images could be read; {output / DETECTIONS} says why")
    if unread:
        print(f"{unread} of {len(entries)} images could not be read; {output / DETECTIONS} says why", file=sys.stderr)


def _predict_some(detector, sources: list, pictures: list[str], output: Path, options):
    """Detect in a batch of sources. Yields, of each, its entry of `detections.json` and its COCO results."""
    from torchvision.transforms.v2.functional import to_pil_image

    from ..data.decoding import describe_fault

    pixels, faults = {}, {}
    for position, source in enumerate(sources):
        try:
            pixels[position] = source.read()
        except OSError as fault:
            faults[position] = describe_fault(fault)
    found = dict(zip(pixels, detector(pixels.values(), 0.0, options.batch_size, **post_processing(options))))
    for position, source in enumerate(sources):
        if position in faults:
            print(f"{source.name}: cannot be read: {faults[position]}", file=sys.stderr)
            yield {"image": source.name, "picture": None, "error": faults[position], "detections": []}, []
            continue
        image = to_pil_image(pixels[position])
        detections, config = found[position], detector.model.config
        kept = _above(detections, options.threshold)
        _draw(image, kept, config.id2label, output / pictures[position])
        print(f"{source.name}: {_summarise(detections, kept, config.id2label, options.threshold)} "
              f"-> {output / pictures[position]}")  # fmt: skip
        entry = {"image": source.name, "picture": pictures[position], "width": image.width, "height": image.height}
        entry["detections"] = [
            {
                "label": config.id2label[label],
                "category_id": config.category_ids[label] if config.category_ids else label,
                "score": round(score, 8),  # coarser ones would give another AP
                "box": [round(value, 4) for value in box],
            }
            for score, label, box in _rows(kept)
        ]
        yield entry, _to_results(source.name, detections, config)


def _rows(detections: dict):
    return zip(*(detections[name].tolist() for name in ("scores", "labels", "boxes")))


def _above(detections: dict, threshold: float) -> dict:
    keep = detections["scores"] > threshold
    return {name: values[keep] for name, values in detections.items()}


def _draw(image, detections: dict, names: dict[int, str], path: Path) -> None:
    from ..evaluation import draw_detections

    draw_detections(image, detections, names).save(path, quality=92)


def _summarise(detections: dict, kept: dict, names: dict[int, str], threshold: float) -> str:
    if len(kept["scores"]) or not len(detections["scores"]):
        return f"{len(kept['scores'])} detections"
    best, label = detections["scores"][0].item(), names[int(detections["labels"][0])]
    return f"0 detections above {threshold:.2g}; the best is {label} {best:.2g}"


def _to_results(name: str, detections: dict, config) -> list[dict]:
    """Return the detections of every score as COCO results; `evaluate` takes the file's name as `image_id`."""
    from ..evaluation import to_coco_results

    ids = config.category_ids or list(range(config.num_labels))
    return to_coco_results([{"image_id": Path(name).as_posix(), **detections}], ids)


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


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
