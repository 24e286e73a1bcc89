"""What a reader wants of a finished run: its figures, report, pictures and card, and what to type next."""

import json
import shlex
from pathlib import Path
from typing import Any

from datasets import Image
from transformers.utils import logging

from ..data import class_names
from ..data.decoding import decode_image
from ..evaluation.coco.table import format_figure
from ..evaluation.evaluate import Evaluation
from ..evaluation.operating_point import readable_threshold
from ..evaluation.pictures import draw_truth_and_detections, make_grid
from ..evaluation.report import write_report
from ..hub.cards import write_card
from ..runs.names import BOX_AP_PNG, DETECTIONS_PNG, FIGURES_JSON, PLOTS, REPORT, REPORT_HTML
from .options import DinoDetrTrainingArguments

logger = logging.get_logger(__name__)

OVERFIT_PASS_AP50 = 0.9  # on the images trained on, of which `overfit_images` asks


def describe_run(
    options: DinoDetrTrainingArguments, evaluation: Evaluation, figures: dict[str, Any], step: int, last_step: int
) -> None:
    """
    Write figures, report, pictures and card into the run folder, and say what can be done with them.

    Args:
        evaluation: of the weights that the run leaves.
        figures: that are written and said.
        step: of these weights.
        last_step: that was trained.
    """
    folder = options.run_folder
    report = write_run_report(options, evaluation)
    threshold = readable_threshold(report["operating_point"]["score"] if report else None)
    try:
        draw_sample_detections(folder, evaluation, threshold)
    except Exception as fault:  # the run is done but for this
        logger.warning(f"{DETECTIONS_PNG} could not be drawn: {fault!r}")
    content = {"step": step, "threshold": threshold, **figures}
    (folder / FIGURES_JSON).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_card(folder)
    if options.overfit_images is not None:
        print(_overfit_verdict(options.overfit_images, figures["AP50"]))
    print(farewell(options, figures, step, last_step, threshold))


def write_run_report(options: DinoDetrTrainingArguments, evaluation: Evaluation) -> dict[str, Any] | None:
    """Write the report. Returns what it holds; None if it could not be written."""
    split = options.eval_split
    if options.overfit_images is not None:
        split = f"the first {options.overfit_images} of {options.train_split}, learned by heart"
    evaluated = {"checkpoint": options.output_dir, "data set": ", ".join(options.sources), "split": split}
    try:
        return write_report(options.run_folder / REPORT, evaluated, evaluation)
    except Exception as fault:
        logger.warning(f"The report could not be written: {fault!r}")
        return None


def draw_sample_detections(folder: Path, evaluation: Evaluation, threshold: float, count: int = 8) -> None:
    """
    Draw `plots/detections.png`: what is annotated in the first images of a data set beside what was found in them.

    Args:
        folder: the run folder.
        evaluation: images that could not be read are not in it.
        threshold: only detections above it are drawn.
    """
    rows: Any = evaluation.rows
    found = {entry["image_id"]: entry for entry in evaluation.detections}
    truth = {entry["image_id"]: entry for entry in evaluation.truth}
    shown = [index for index, image_id in enumerate(rows["image_id"]) if image_id in found][:count]
    names = dict(enumerate(class_names(rows)))
    tiles = [
        draw_truth_and_detections(
            decode_image(row["image"]), truth[row["image_id"]], found[row["image_id"]], names, threshold
        )
        for row in rows.select(shown).cast_column("image", Image(decode=False))
    ]
    if tiles:
        (folder / PLOTS).mkdir(exist_ok=True)
        make_grid(tiles, columns=2, gap=24).save(folder / DETECTIONS_PNG)


def farewell(
    options: DinoDetrTrainingArguments, figures: dict[str, Any], step: int, last_step: int, threshold: float
) -> str:
    """Return what a run says at its end: how good it is, where it lies, and what can be done with it."""
    folder = options.run_folder
    quoted = shlex.quote(str(options.output_dir))
    sources = [f"{name} {format_figure(each['AP'])}" for name, each in figures.get("per_source", {}).items()]
    return "\n".join(
        [
            f"Best AP {format_figure(figures['AP'])} (AP50 {format_figure(figures['AP50'])}) on {options.eval_split}, "
            f"at step {step} of {last_step}; all of it is in {options.output_dir}:",
            *([f"  sources     AP {', '.join(sources)}; the best was chosen by all together"] if sources else []),
            f"  report      {folder / REPORT / REPORT_HTML}",
            f"  pictures    {folder / DETECTIONS_PNG} (scores above {threshold:.3g})",
            f"  curves      {folder / BOX_AP_PNG}",
            "Next:",
            f"  dino-detr predict {quoted} IMAGE ... --output found",
            f"  dino-detr push {quoted} YOU/NAME",
        ]
    )


def _overfit_verdict(count: int, ap50: float) -> str:
    measured = f"AP50 is {ap50:.3f} on the {count} images"
    if ap50 >= OVERFIT_PASS_AP50:
        return f"Overfit check passed: {measured}, at least {OVERFIT_PASS_AP50}."
    return (
        f"Overfit check failed: {measured}, below {OVERFIT_PASS_AP50}. Train more steps; if that does not help, look "
        "at the boxes and classes of these images, then at learning rate and image size."
    )
