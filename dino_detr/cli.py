"""The `dino-detr` command."""

import argparse
import errno
import json
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import torch
from datasets import Dataset, Image
from huggingface_hub.errors import StrictDataclassError
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForObjectDetection, TrainingArguments

from .configuration_dino_detr import DinoDetrConfig
from .data import category_ids, class_names, list_splits, load_detection_dataset
from .data.augmentation import build_augmentation
from .data.check import check_split, summarise
from .data.image_files import IMAGE_SUFFIXES
from .data.importing import READERS, import_data
from .data.rows import values_of_objects
from .data.samples import TrainingSamples, drop_images_without_boxes
from .evaluation import CocoDetectionMetric, draw_detections, format_table, score_results, to_coco_results
from .evaluation.ap_history import read_ap_history
from .evaluation.coco_score import SCORERS
from .evaluation.detections import detect, references
from .evaluation.diagnosis import AP50_OF_A_RIDDLE, diagnose
from .evaluation.forecast import forecast_ap, format_forecast
from .evaluation.forecast_plot import draw_forecast
from .evaluation.pictures import draw_samples
from .evaluation.report import claim_report_folder, images_of_results, write_report
from .hub import load_reference_checkpoint, push_run, write_card
from .image_processing_dino_detr import DinoDetrImageProcessor, upright_rgb
from .training import DetectionTrainer, DinoDetrTrainingArguments, parse_options, prepare, train
from .training.lock import FolderLost
from .training.nonfinite import NonFinite, replay
from .training.options import COCO_SIZES
from .training.preemption import Preempted, ending_in_a_line
from .training.run import augmentation_of
from .training.unreadable import TooManyUnreadable

NUM_PROBLEMS_SHOWN = 10


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; what the user got wrong ends with one line, not with a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with ending_in_a_line(training=arguments[:1] == ["train"]):
        _run(arguments)


def _run(arguments: list[str]) -> None:
    trainer = None
    try:
        if arguments[:1] == ["train"]:  # its options are those of the Trainer
            trainer = prepare_training(arguments[1:])
        else:
            options = build_parser().parse_args(arguments)
            options.run(options)
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.exit(f"dino-detr: {error}")
    if trainer is None:
        return
    try:
        train(trainer)
    except Preempted:
        print(f"dino-detr: stopped by a signal at step {trainer.state.global_step}; go on with the same command and "
              "--resume_from_checkpoint latest", file=sys.stderr)  # fmt: skip
        sys.exit(trainer.preemption.exit_status)
    except (FolderLost, NonFinite, TooManyUnreadable) as error:
        sys.exit(f"dino-detr: {error}\n")  # in one write: other processes say theirs
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"dino-detr: {error.strerror}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dino-detr", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    verbs.add_parser("train", help="train a recipe: RECIPE.yaml [--option value ...]", add_help=False)

    verb = verbs.add_parser("evaluate", help="COCO's figures of a checkpoint or of a results file")
    verb.set_defaults(run=run_evaluate)
    verb.add_argument("source", metavar="CHECKPOINT_OR_RESULTS.json", help="checkpoint folder, Hub id or COCO results")
    verb.add_argument("--dataset", required=True, help="COCO folder, annotation file, saved data set, Hub id, `digits`")
    verb.add_argument("--split", default="val", help="split of the data set (default: val)")
    verb.add_argument("--output", metavar="FILE.json", help="write the figures here too")
    verb.add_argument("--predictions", metavar="FILE.json", help="write the detections as COCO results")
    verb.add_argument("--report", metavar="DIR", help="write a page with curves, confusion and the worst images here")
    verb.add_argument(
        "--scorer", choices=list(SCORERS), default="numpy", help="equal, the first faster (default: numpy)"
    )
    verb.add_argument("--batch_size", type=int, default=8, help="images of one size at a time (default: 8)")
    verb.add_argument("--num_workers", type=int, default=0, help="processes that read images (default: 0)")
    _add_post_processing(verb)

    verb = verbs.add_parser("predict", help="detect in images: pictures with boxes and detections.json")
    verb.set_defaults(run=run_predict)
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint folder or Hub id")
    verb.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    verb.add_argument("--threshold", type=float, default=0.5, help="least score of a detection (default: 0.5)")
    _add_post_processing(verb)

    verb = verbs.add_parser("forecast", help="how AP goes on: curves fitted to a run's history, and their intervals")
    verb.set_defaults(run=run_forecast)
    verb.add_argument("history", metavar="HISTORY", help="run folder, its evaluation.jsonl, or a CSV: Step, bbox/AP")
    verb.add_argument("--step", type=int, metavar="N", help="to forecast (default: the run's last, or 4 times what is)")
    verb.add_argument("--drop", type=int, metavar="STEP", help="at which the rate was dropped (default: the run's own)")
    verb.add_argument("--plot", metavar="FILE.png", help="draw points, curves and interval here")
    verb.add_argument("--output", metavar="FILE.json", help="write fits, forecasts and intervals here")

    verb = verbs.add_parser("check-data", help="what is wrong with a data set, by file name, and what is done about it")
    verb.set_defaults(run=run_check_data)
    verb.add_argument("source", metavar="SOURCE", help="as --dataset of training: a COCO folder, say")
    verb.add_argument("--split", action="append", help="split to check (default: all; may be repeated)")
    verb.add_argument("--strict", action="store_true", help="exit with status 1 if there are defects")
    verb.add_argument("--show", type=int, metavar="N", help="only draw N augmented samples of one split")
    verb.add_argument("--output", default="samples.png", metavar="FILE.png", help="where to (default: samples.png)")
    verb.add_argument("--recipe", metavar="RECIPE.yaml", help="whose augmentation (default: the reference's)")

    verb = verbs.add_parser("convert", help="turn a checkpoint with detrex's names into a checkpoint folder")
    verb.set_defaults(run=run_convert)
    verb.add_argument("state_dict", metavar="STATE_DICT", help=".safetensors, or a torch file that needs no pickle")
    verb.add_argument("--reference-config", required=True, metavar="CONFIG.json", help="the reference's values")
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")

    verb = verbs.add_parser("card", help="write the model card of a run from the run's own numbers")
    verb.set_defaults(run=run_card)
    verb.add_argument("folder", metavar="RUN", type=Path, help="run or checkpoint folder")
    verb.add_argument("--license", metavar="ID", help="of the weights, as the Hub names it: apache-2.0, say")

    verb = verbs.add_parser("push", help="upload a run to the Hub: weights, code, card, figures")
    verb.set_defaults(run=run_push)
    verb.add_argument("folder", metavar="RUN", type=Path, help="run or checkpoint folder")
    verb.add_argument("repo_id", metavar="REPO_ID", help="where to: you/detector; made if there is none")
    verb.add_argument("--private", action="store_true", help="make the repository private")
    verb.add_argument("--revision", metavar="TAG", help="name for what is uploaded: v1.0, say")
    verb.add_argument("--license", metavar="ID", help="of the weights, as the Hub names it: apache-2.0, say")

    verb = verbs.add_parser("import-data", help="turn YOLO or VOC data into a COCO folder")
    verb.set_defaults(run=run_import_data)
    verb.add_argument("form", choices=list(READERS), help="the form of the data")
    verb.add_argument("source", metavar="SOURCE", type=Path, help="its folder, or YOLO's data.yaml")
    verb.add_argument("--output", required=True, metavar="COCO_FOLDER", type=Path, help="new folder to write to")
    verb.add_argument("--val_share", type=float, help="part of the images to set aside as val, if there is no val yet")
    verb.add_argument("--strict", action="store_true", help="what cannot be read is an error")

    verb = verbs.add_parser("replay", help="run the step again at which a run met a number that is not finite")
    verb.set_defaults(run=run_replay)
    verb.add_argument("dump", metavar="DUMP", type=Path, help="folder that the run left, nonfinite/step-<N>")

    verb = verbs.add_parser("benchmark", help="seconds and memory of a training step, as a table")
    verb.set_defaults(run=run_benchmark)
    verb.add_argument(
        "--backbones", nargs="+", default=["vit-s", "vit-b"], metavar="BACKBONE",
        help="vit-s, vit-b, vit-l, vit-g (random weights); a folder, Hub id or timm:<name> (default: vit-s vit-b)",
    )  # fmt: skip
    verb.add_argument(
        "--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"],
        help="fp16 needs a GPU (default: fp32 bf16)",
    )  # fmt: skip
    verb.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 2], metavar="N", help="(default: 1 2)")
    verb.add_argument("--image_size", nargs=2, type=int, default=[640, 640], metavar=("H", "W"), help="in pixels (640)")
    verb.add_argument("--gradient_checkpointing", action="store_true", help="add rows with it beside those without")
    verb.add_argument("--compile", action="store_true", help="add rows with torch.compile beside those without")
    verb.add_argument("--steps", type=int, default=5, help="steps of which the median is taken (default: 5)")
    verb.add_argument("--warmup", type=int, default=2, help="steps before those (default: 2)")
    verb.add_argument("--output", metavar="DIR", help="write benchmark.json, benchmark.md and benchmark.png here")
    return parser


def _add_post_processing(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--one_label_per_query", action="store_true", help="no box under several labels")
    verb.add_argument(
        "--nms_threshold", type=float, metavar="IOU", help="drop what overlaps a better detection by more (default: no)"
    )


def _post_processing(options: argparse.Namespace) -> dict:
    return {"one_label_per_query": options.one_label_per_query, "nms_threshold": options.nms_threshold}


def prepare_training(arguments: list[str]) -> DetectionTrainer | None:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_train_help())
        return None
    return prepare(parse_options(arguments))


def run_evaluate(options: argparse.Namespace) -> None:
    if options.report:
        claim_report_folder(options.report)
    diagnosis = None
    if options.source.endswith(".json"):
        if options.predictions:
            raise ValueError("--predictions goes with a checkpoint; a results file holds the predictions already")
        if options.one_label_per_query or options.nms_threshold is not None:
            raise ValueError("--one_label_per_query and --nms_threshold go with a checkpoint, not with a results file")
        results, annotations = _read_json(options.source), _annotations(options.dataset, options.split)
        try:
            figures = score_results(results, annotations, options.scorer)
        except ValueError as error:
            raise ValueError(f"{options.source} against {options.dataset}: {error}") from error
        if options.report:
            detections, truth = images_of_results(results, annotations)
            rows = _rows_with_images(options.dataset, options.split)
    else:
        rows = _checked_rows(options.dataset, options.split)
        model, processor = _load_checkpoint(options.source)
        names = [model.config.id2label[index] for index in range(model.config.num_labels)]
        nameless = names == [f"LABEL_{index}" for index in range(len(class_names(rows)))]  # a converted checkpoint
        if names != class_names(rows) and not nameless:
            raise ValueError(
                f"{options.source} knows the classes {names}, but {options.dataset} has {class_names(rows)}"
            )
        every = range(len(rows)), options.batch_size, options.num_workers
        detections = list(detect(model, processor, rows, *every, **_post_processing(options)))
        metric = CocoDetectionMetric(
            category_ids=category_ids(rows), class_names=class_names(rows), scorer=options.scorer
        )
        truth = references(rows, detections)
        metric.add_batch(predictions=detections, references=truth)
        figures = metric.compute()
        if figures["AP50"] < AP50_OF_A_RIDDLE:
            diagnosis = diagnose(detections, truth, values_of_objects(rows, "id"), class_names(rows))
        if options.predictions:
            _write_json(options.predictions, to_coco_results(detections, category_ids(rows)))
    print(format_table(figures))
    if diagnosis is not None:
        print(f"\nAP50 is about 0. What the evaluation saw:\n{diagnosis}")
    if options.output:
        _write_json(options.output, figures)
    if options.report:
        kind = "results" if options.source.endswith(".json") else "checkpoint"
        evaluated = {kind: options.source, "data set": options.dataset, "split": options.split}
        if options.dataset.endswith(".json"):  # which is one
            del evaluated["split"]
        write_report(options.report, evaluated, figures, detections, truth, rows)
        print(f"report -> {Path(options.report) / 'report.html'}")


def run_predict(options: argparse.Namespace) -> None:
    paths = _image_paths(options.images)
    output = Path(options.output)
    if (output / "detections.json").exists():
        raise FileExistsError(f"{output} holds detections already; choose another --output")
    model, processor = _load_checkpoint(options.checkpoint)
    names, ids = model.config.id2label, model.config.category_ids
    rows = _rows_of_images(paths)
    output.mkdir(parents=True, exist_ok=True)
    entries = {}
    for found in detect(model, processor, rows, range(len(rows)), batch_size=1, **_post_processing(options)):
        index = found["image_id"]
        keep = found["scores"] > options.threshold
        kept = {name: found[name][keep] for name in ("scores", "labels", "boxes")}
        image = upright_rgb(PILImage.open(paths[index]))
        # images of one name from several folders must not overwrite one another
        same_name = [path for path in paths if path.stem == paths[index].stem]
        number = f"_{same_name.index(paths[index]) + 1}" if len(same_name) > 1 else ""
        picture = output / f"{paths[index].stem}{number}.jpg"
        draw_detections(image, kept, names).save(picture, quality=92)
        entries[index] = {
            "image": str(paths[index]),
            "picture": picture.name,
            "width": image.width,
            "height": image.height,
            "detections": [
                {
                    "label": names[int(label)],
                    "category_id": int(ids[label] if ids else label),
                    # as in a results file: coarser ones would give another AP
                    "score": round(float(score), 8),
                    "box": [round(float(value), 4) for value in box],
                }
                for score, label, box in zip(kept["scores"], kept["labels"], kept["boxes"])
            ],
        }
        print(f"{paths[index]}: {len(kept['scores'])} detections -> {picture}")
    _write_json(output / "detections.json", [entries[index] for index in sorted(entries)])


def run_forecast(options: argparse.Namespace) -> None:
    for option, path in (("--plot", options.plot), ("--output", options.output)):
        if path and Path(path).exists():
            raise FileExistsError(f"{path} exists; choose another {option}")
    history = read_ap_history(options.history)
    step = history.step_to_forecast() if options.step is None else options.step
    drop = history.drop if options.drop is None else options.drop
    result = forecast_ap(history.steps, history.values, step, drop, history.highest)
    print(format_forecast(result))
    if options.plot:
        draw_forecast(result, options.plot)
    if options.output:
        _write_json(options.output, result)


def run_check_data(options: argparse.Namespace) -> None:
    if options.show is not None:
        show_samples(options)
        return
    reports = []
    for split in options.split or list_splits(options.source):
        reports.append(check_split(options.source, split, DinoDetrConfig().num_queries, reports))
        print(reports[-1].format() + "\n")
    print(summarise(reports))
    if options.strict and any(report.defects for report in reports):
        sys.exit(1)


def show_samples(options: argparse.Namespace) -> None:
    if options.show < 1:
        raise ValueError(f"--show {options.show}: at least 1 sample")
    if Path(options.output).exists():
        raise FileExistsError(f"{options.output} exists; choose another --output")
    split = (options.split or ["train"])[0]
    rows = drop_images_without_boxes(_checked_rows(options.source, split))
    if not len(rows):
        raise ValueError(f"{options.source}: no image of {split} has a box to show")
    augmentation, seed = build_augmentation("reference", COCO_SIZES, 1333), 42
    if options.recipe:
        on_any_machine = ["--use_cpu", "true", "--bf16", "false", "--fp16", "false"]
        recipe = parse_options([options.recipe, *on_any_machine])
        augmentation, seed = augmentation_of(recipe), recipe.seed
    samples = TrainingSamples(rows, augmentation, seed)
    draw_samples(samples, dict(enumerate(class_names(rows))), options.show).save(options.output)
    print(f"{min(options.show, len(rows))} samples of {split} -> {options.output}")


def run_convert(options: argparse.Namespace) -> None:
    output = Path(options.output)
    if (output / "config.json").exists():
        raise FileExistsError(f"{output} holds a checkpoint already; choose another --output")
    load_reference_checkpoint(options.state_dict, options.reference_config).save_pretrained(output)
    DinoDetrImageProcessor().save_pretrained(output)
    print(f"{options.state_dict} -> {output}")


def run_card(options: argparse.Namespace) -> None:
    print(f"{options.folder} -> {write_card(options.folder, options.license)}")


def run_push(options: argparse.Namespace) -> None:
    url = push_run(
        options.folder, options.repo_id, options.private or None, tag=options.revision, license=options.license
    )
    print(f"{options.folder} -> {url}")


def run_import_data(options: argparse.Namespace) -> None:
    data = import_data(options.form, options.source, options.output, options.val_share, options.strict)
    for note in data.notes:
        print(f"Note: {note}")
    for split, images in data.splits.items():
        print(f"{split}: {len(images)} images, {sum(len(image.objects) for image in images)} boxes")
    print(f"{len(data.names)} classes: {', '.join(data.names.values())}")
    if data.problems:
        shown = [f"  {problem}" for problem in data.problems[:NUM_PROBLEMS_SHOWN]]
        rest = len(data.problems) - len(shown)
        shown += [f"  and {rest} more"] if rest else []
        print("\n".join([f"{len(data.problems)} problems, all of them in {options.output / 'problems.txt'}:", *shown]))
    print(f"{options.source} -> {options.output}")


def run_replay(options: argparse.Namespace) -> None:
    finite, report = replay(options.dump, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(f"dino-detr: {report}")
    sys.exit(0 if finite else 1)


def run_benchmark(options: argparse.Namespace) -> None:
    from .benchmark import run_benchmark as measure  # no other verb needs it

    measure(**{name: value for name, value in vars(options).items() if name != "run"})


def _train_help() -> str:
    inherited = {f.name for f in fields(TrainingArguments)}
    lines = ["usage: dino-detr train RECIPE.yaml [--option value ...]", "", "options, in the recipe or here:"]
    for option in fields(DinoDetrTrainingArguments):
        if option.name not in inherited and option.init:
            first, *rest = textwrap.wrap(option.metadata["help"], 90)
            lines += [f"  --{option.name:<25}{first}", *(" " * 29 + line for line in rest)]
    return "\n".join(
        [*lines, "", "and every field of transformers.TrainingArguments, such as --max_steps, --bf16, --seed"]
    )


def _load_checkpoint(source: str):
    if not Path(source).is_dir() and source.count("/") != 1:
        raise FileNotFoundError(f"no checkpoint folder {source}")
    model = AutoModelForObjectDetection.from_pretrained(source).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), AutoImageProcessor.from_pretrained(source)


def _checked_rows(dataset: str, split: str) -> Dataset:
    """The rows that training would evaluate on; what is done to them goes to the terminal."""
    report = check_split(dataset, split)
    if report.defects:
        print(report.format(), file=sys.stderr)
    return report.rows


def _rows_with_images(dataset: str, split: str) -> Dataset | str:
    """The rows of what results were scored against, or why there are none: annotations alone can be scored too."""
    try:
        return load_detection_dataset(dataset, split)
    except (ValueError, OSError) as error:
        return str(error)


def _annotations(dataset: str, split: str) -> dict:
    """COCO annotations of a file as they are, or of a data set."""
    if dataset.endswith(".json"):
        return _read_json(dataset)
    rows = _checked_rows(dataset, split).remove_columns("image")
    ids, names = category_ids(rows), class_names(rows)
    annotations = []
    for row in rows:
        objects = row["objects"]
        for bbox, category, area, crowd in zip(*(objects[name] for name in ("bbox", "category", "area", "iscrowd"))):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row["image_id"],
                    "category_id": ids[category],
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": crowd,
                }
            )
    return {
        "images": [{"id": image_id} for image_id in rows["image_id"]],
        "annotations": annotations,
        "categories": [{"id": category_id, "name": name} for category_id, name in zip(ids, names)],
    }


def _image_paths(arguments: list[str]) -> list[Path]:
    paths = []
    for argument in map(Path, arguments):
        if argument.is_dir():
            inside = sorted(path for path in argument.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"no images in {argument}")
            paths += inside
        elif argument.is_file():
            paths.append(argument)
        else:
            raise FileNotFoundError(f"no image {argument}")
    return paths


def _rows_of_images(paths: list[Path]) -> Dataset:
    sizes = []
    for path in paths:
        with PILImage.open(path) as image:
            sizes.append(image.size)
    columns = {
        "image": [str(path) for path in paths],
        "image_id": list(range(len(paths))),
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
    }
    return Dataset.from_dict(columns).cast_column("image", Image())


def _read_json(path: str):
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _write_json(path: str | Path, content) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
