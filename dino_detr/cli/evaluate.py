"""`dino-detr evaluate`: COCO's figures of a checkpoint or of a results file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..outputs import claim_files, claim_folder, write_json
from ..runs.names import REPORT_HTML, REPORT_JSON
from .common import add_device, add_post_processing, check_batch_size, checked_rows, post_processing

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.findings import Findings
    from ..evaluation.evaluate import Evaluation
    from ..inference import Detector

SCORERS = ("numpy", "pycocotools")
_SHOWN_EXAMPLES = 3  # of a kind of finding


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("evaluate", help="COCO's figures of a checkpoint or of a results file")
    verb.set_defaults(run=run)
    verb.add_argument("source", metavar="CHECKPOINT_OR_RESULTS.json", help="checkpoint folder, Hub id or COCO results")
    verb.add_argument(
        "--dataset", required=True, nargs="+",
        help="COCO folder, annotation file, saved data set, Hub id, `digits`; several: figures of each and of all",
    )  # fmt: skip
    verb.add_argument("--split", default="val", help="split of the data set (default: val)")
    verb.add_argument("--output", metavar="FILE.json", help="write the figures here too")
    verb.add_argument("--predictions", metavar="FILE.json", help="write the detections as COCO results")
    verb.add_argument("--report", metavar="DIR", help="write a page with curves, confusion and the worst images here")
    verb.add_argument("--scorer", choices=SCORERS, default="numpy", help="equal, the first faster (default: numpy)")
    verb.add_argument("--batch_size", type=int, default=8, help="images of one size at a time (default: 8)")
    verb.add_argument("--num_workers", type=int, default=0, help="processes that read images (default: 0)")
    add_device(verb)
    add_post_processing(verb)


def run(options: argparse.Namespace) -> None:
    from ..evaluation import format_table
    from ..evaluation.report import write_report

    check_batch_size(options)
    if options.num_workers < 0:
        raise ValueError(f"--num_workers {options.num_workers}: at least 0")
    claim_files(output=options.output, predictions=options.predictions)
    if options.report:
        claim_folder(options.report, "report")
        for page in (Path(options.report) / REPORT_HTML, Path(options.report) / REPORT_JSON):
            claim_files(output=options.output, predictions=options.predictions, report=page)
    of_results, why_no_pictures = is_results_file(options.source), None
    if of_results:
        evaluation, why_no_pictures = evaluate_results(options)
    else:
        evaluation = evaluate_checkpoint(options)
    print(format_table(evaluation.figures))
    if not of_results and evaluation.is_unexplained:
        print(f"\nAP50 is about 0. What the evaluation saw:\n{evaluation.diagnose()}")
    if options.output:
        write_json(options.output, evaluation.figures)
    if options.report:
        name = ", ".join(options.dataset)
        evaluated = {"results" if of_results else "checkpoint": options.source, "data set": name}
        if not is_annotation_file(name):  # which is one split
            evaluated["split"] = options.split
        write_report(options.report, evaluated, evaluation, why_no_pictures)
        print(f"report -> {Path(options.report) / REPORT_HTML}")


def evaluate_results(options: argparse.Namespace) -> tuple[Evaluation, str | None]:
    """
    Score a results file.

    Returns:
        What a report needs, if one is asked for, beside the figures; and why it has no pictures, if it has none.
    """
    from ..data.findings import Findings
    from ..data.sources.annotation_json import read_json
    from ..evaluation.coco.image_ids import find_image_ids
    from ..evaluation.coco.results import clean_results, images_of_results, score_cleaned
    from ..evaluation.evaluate import Evaluation

    if options.predictions:
        raise ValueError("--predictions goes with a checkpoint; a results file holds the predictions already")
    if options.one_label_per_query or options.nms_threshold is not None:
        raise ValueError("--one_label_per_query and --nms_threshold go with a checkpoint, not with a results file")
    if len(options.dataset) > 1:
        raise ValueError("a results file is of one data set: give one --dataset, or a checkpoint")
    (dataset,) = options.dataset
    annotations, findings = read_annotations(dataset, options.split), Findings()
    results = read_json(Path(options.source))
    try:
        results, annotations = clean_results(find_image_ids(results, annotations), annotations, findings)
        figures = score_cleaned(results, annotations, options.scorer)
    except ValueError as error:
        raise ValueError(f"{options.source} against {dataset}: {error}") from error
    if any(finding.is_defect for finding in findings.sorted()):
        print("\n".join([dataset, *_format(findings)]), file=sys.stderr)
    if not options.report:
        return Evaluation(figures, None, [], []), None
    rows, why_no_pictures = rows_with_images(dataset, options.split)
    return Evaluation(figures, rows, *images_of_results(results, annotations)), why_no_pictures


def _format(findings: Findings) -> list[str]:
    lines = []
    for finding in findings.sorted():
        lines += [finding.format(), *finding.format_examples(_SHOWN_EXAMPLES, "")]
    return lines


def evaluate_checkpoint(options: argparse.Namespace) -> Evaluation:
    """Detect and score. Writes `--predictions`."""
    from ..data import category_ids
    from ..evaluation import to_coco_results
    from ..evaluation.evaluate import evaluate
    from ..inference import Detector

    if options.predictions and len(options.dataset) > 1:
        raise ValueError("--predictions is of one data set, whose ids it has: give one --dataset")
    rows = checked_rows(options.dataset, options.split)
    detector = Detector(options.source, options.device)
    ids = set(category_ids(rows))
    rows = rows_for(detector, options, rows)
    if detector.precision_note is not None:
        print(detector.precision_note, file=sys.stderr)
    evaluation = evaluate(
        detector.model, detector.processor, rows, options.batch_size, options.num_workers,
        scorer=options.scorer, context=detector.autocast, **post_processing(options),
    )  # fmt: skip
    if options.predictions:
        results = to_coco_results(evaluation.detections, category_ids(rows))
        write_json(options.predictions, [each for each in results if each["category_id"] in ids])
    return evaluation


def rows_for(detector: Detector, options: argparse.Namespace, rows: Dataset) -> Dataset:
    """Return the rows with their classes in the places that the detector has for them. It may know further ones."""
    from ..data import class_names
    from ..data.joining import fit_classes

    config, own, dataset = detector.model.config, class_names(rows), ", ".join(options.dataset)
    names = [config.id2label[index] for index in range(config.num_labels)]
    nameless = names == [f"LABEL_{index}" for index in range(len(own))]  # a converted checkpoint
    if names == own or nameless:
        return rows
    if set(own) - set(names):
        raise ValueError(f"{options.source} knows the classes {names}, but {dataset} has {own}")
    if further := [name for name in names if name not in own]:
        print(f"{options.source} also knows {', '.join(further)}, of which {dataset} has none", file=sys.stderr)
    return fit_classes(rows, names)


def rows_with_images(dataset: str, split: str) -> tuple[Dataset | None, str | None]:
    """Return the rows that results were scored against; or None, and why: annotations alone can be scored too."""
    from ..data import load_detection_dataset

    try:
        return load_detection_dataset(dataset, split), None
    except (ValueError, OSError) as error:
        return None, str(error)


def is_results_file(source: str) -> bool:
    """Tell whether a source is COCO results rather than a checkpoint, which is a folder or a Hub id."""
    return Path(source).is_file() or is_annotation_file(source)


def is_annotation_file(dataset: str) -> bool:
    return dataset.lower().endswith(".json") and not Path(dataset).is_dir()


def read_annotations(dataset: str, split: str) -> dict:
    """Return COCO annotations of a file as they are, or of a data set."""
    from ..data.coco_writer import rows_to_coco
    from ..data.sources.annotation_json import CocoAnnotations, read_json
    from ..data.sources.coco import take_part

    if is_annotation_file(dataset):
        return take_part(read_json(Path(dataset), CocoAnnotations), split)
    return rows_to_coco(checked_rows([dataset], split))
