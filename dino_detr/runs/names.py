"""The names of everything in a run folder. Folders of former versions have them too, so a name is never changed."""

import re
from pathlib import Path

# A checkpoint, as transformers names its files: the run folder's root, `checkpoint-<step>` and its `ema` are each one.
CONFIG_JSON = "config.json"
PREPROCESSOR_JSON = "preprocessor_config.json"
SOURCE_JSON = "source.json"  # of one that was converted: where it comes from, and what its authors say of it

# The record of the run.
RECIPE_YAML = "recipe.yaml"  # the options, as resolved
ENVIRONMENT_JSON = "environment.json"  # machine and versions
DATA_REPORT = "data_report.txt"  # what was found in the data
METRICS_JSONL = "metrics.jsonl"  # a line per log
EVALUATION_JSONL = "evaluation.jsonl"  # a line per evaluation
EMISSIONS_CSV = "emissions.csv"  # codecarbon's
DIAGNOSIS = "diagnosis.txt"  # why AP is about 0, if it is
FIGURES_JSON = "figures.json"  # of the best weights
PLOTS = "plots"
BOX_AP_PNG, LOSS_PNG, DETECTIONS_PNG = f"{PLOTS}/box_ap.png", f"{PLOTS}/loss.png", f"{PLOTS}/detections.png"
REPORT = "report"
REPORT_HTML, REPORT_JSON = "report.html", "report.json"  # in it, or in the folder given to `evaluate --report`

# What a run goes on with.
ADAPTER = "adapter"  # in a checkpoint of a run with adapters: these, which its weights have in them already
AVERAGE = "ema"  # in a checkpoint: the moving average of the weights, a checkpoint itself
TRAINER_STATE_JSON = "trainer_state.json"
FILES_JSON = "files.json"  # in a checkpoint: what it was made of
EVALUATION_DUE = "evaluation_due"  # in a checkpoint that was saved in haste, before its step was evaluated
NONFINITE = "nonfinite"  # steps whose loss or gradient was not finite, to be run again
LOCK = "run.lock"  # the process that has the folder
STAGED = ".push"  # what is being uploaded

# COCO's figures, by their names in `evaluation.jsonl` and `figures.json`. Those of the average begin with "ema_".
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def figure_of_average(name: str) -> str:
    """
    Return the name of a figure of COCO's as the averaged weights have it: `AP50` and `eval_AP50` become `ema_AP50`.

    Where there is an average it is what a run leaves, so the best is chosen by its figures. Other names are left.
    """
    figure = name.removeprefix("eval_").removeprefix("ema_")
    return f"ema_{figure}" if figure in FIGURES else name


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    return run_folder / f"checkpoint-{step}"


def checkpoint_step(folder: Path) -> int | None:
    """Return the step of a `checkpoint-<step>`; None if that is not its name, as of a user's `checkpoint-5-copy`."""
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else None


def partial_path(path: Path) -> Path:
    """Return where a file or folder is written until it is whole. A rename to `path` is then the last step."""
    return path.with_name(f".{path.name}.partial")
