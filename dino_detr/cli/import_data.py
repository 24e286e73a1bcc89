"""`dino-detr import-data`: YOLO or VOC data become a COCO folder."""

import argparse
from pathlib import Path

from ..outputs import claim_folder

FORMS = ("yolo", "voc")


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("import-data", help="turn YOLO or VOC data into a COCO folder")
    verb.set_defaults(run=run)
    verb.add_argument("form", choices=FORMS, help="the form of the data")
    verb.add_argument("source", metavar="SOURCE", type=Path, help="its folder, or YOLO's data.yaml")
    verb.add_argument("--output", required=True, metavar="COCO_FOLDER", type=Path, help="new folder to write to")
    verb.add_argument("--val_share", type=float, help="part of the images to set aside as val, if there is no val yet")
    verb.add_argument("--strict", action="store_true", help="what cannot be read is an error")


def run(options: argparse.Namespace) -> None:
    from ..data.importing import format_problems, import_data

    claim_folder(options.output)
    data = import_data(options.form, options.source, options.output, options.val_share, options.strict)
    for note in data.notes:
        print(f"Note: {note}")
    for split, images in data.splits.items():
        print(f"{split}: {len(images)} images, {sum(len(image.objects) for image in images)} boxes")
    print(f"{len(data.names)} classes: {', '.join(data.names.values())}")
    if data.problems:
        print(f"{len(data.problems)} problems, all of them in {options.output / 'problems.txt'}:")
        print("\n".join(f"  {line}" for line in format_problems(data.problems)))
    print(f"{options.source} -> {options.output}")
