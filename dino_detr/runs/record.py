"""What a run folder says of its run, without the paths of the machine that it ran on."""

import csv
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from .history import read_figures, read_history, read_mapping
from .names import (
    CONFIG_JSON,
    EMISSIONS_CSV,
    ENVIRONMENT_JSON,
    EVALUATION_JSONL,
    FIGURES_JSON,
    METRICS_JSONL,
    PREPROCESSOR_JSON,
    RECIPE_YAML,
    SOURCE_JSON,
)

SOURCES = ("dataset", "model", "backbone")  # options that are a folder of this machine, or something known elsewhere


@dataclass
class RunRecord:
    """
    Empty where the folder does not say.

    Args:
        config, processor: `config.json` and `preprocessor_config.json`.
        source: `source.json`, of a converted checkpoint.
        recipe: `recipe.yaml`; of a path only the last part.
        local: the options of the recipe that were folders or files of the machine; one of several as `dataset[1]`.
        environment: `environment.json`.
        figures: of the folder's weights, `figures.json`: COCO's, `per_class` and, of newer runs, `step`.
        metrics, evaluations: the lines of `metrics.jsonl` and `evaluation.jsonl`.
        energy: kWh and kg of CO2 that codecarbon measured (`emissions.csv`), summed over the parts of a resumed run.
    """

    config: dict
    processor: dict
    source: dict
    recipe: dict
    local: list[str]
    environment: dict
    figures: dict
    metrics: list[dict]
    evaluations: list[dict]
    energy: tuple[float, float] | None


def read_record(folder: str | Path) -> RunRecord:
    """
    Raises:
        FileNotFoundError: if the folder has no `config.json`.
        ValueError: if one of its files cannot be read.
    """
    folder = Path(folder)
    if not (folder / CONFIG_JSON).is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is neither a finished run nor a checkpoint")
    config = read_mapping(folder / CONFIG_JSON)
    if lacking := {"id2label", "num_queries", "backbone_config"} - config.keys():
        raise ValueError(
            f"{folder / CONFIG_JSON} is not of a detector from here: it has no {', '.join(sorted(lacking))}"
        )
    recipe, environment = read_mapping(folder / RECIPE_YAML), read_mapping(folder / ENVIRONMENT_JSON)
    local = environment.get("local_paths")
    if local is None:  # runs of before it was noted
        local = local_sources(recipe)
    return RunRecord(
        config=config,
        processor=read_mapping(folder / PREPROCESSOR_JSON),
        source=read_mapping(folder / SOURCE_JSON),
        recipe=without_paths(recipe, local),
        local=local,
        environment=environment,
        figures=read_figures(folder / FIGURES_JSON),
        metrics=read_history(folder / METRICS_JSONL),
        evaluations=read_history(folder / EVALUATION_JSONL),
        energy=_read_energy(folder / EMISSIONS_CSV),
    )


def local_sources(recipe: dict) -> list[str]:
    """The options among `SOURCES` whose value is a file or folder here."""
    places = {}
    for name in SOURCES:
        value = recipe.get(name)
        places |= {f"{name}[{i}]": one for i, one in enumerate(value)} if isinstance(value, list) else {name: value}
    return [name for name, place in places.items() if place and Path(str(place)).expanduser().exists()]


def without_paths(recipe: dict, local: list[str]) -> dict:
    """A recipe in which the last part stands for the whole of each path: of those in `local` and whatever looks so."""
    short = {}
    for name, value in recipe.items():
        if name in (*local, "output_dir", "logging_dir"):
            short[name] = PurePath(str(value)).name
        elif name in SOURCES and isinstance(value, list):
            of_each = without_paths({f"{name}[{i}]": one for i, one in enumerate(value)}, local)
            short[name] = list(of_each.values())
        else:
            short[name] = _without_paths(value)
    return short


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    if absolute or value.startswith(("~", "./", "../", ".\\", "..\\")) or ("/" in value and Path(value).exists()):
        return PureWindowsPath(value).name  # takes either slash
    return value


def _read_energy(path: Path) -> tuple[float, float] | None:
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        runs = {row["run_id"]: row for row in csv.DictReader(file)}  # a run's last row counts all of it
    kwh, kg = (sum(float(row[name]) for row in runs.values()) for name in ("energy_consumed", "emissions"))
    return (kwh, kg) if runs else None
