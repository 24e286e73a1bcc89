"""The model card of a run, from the run's own numbers: what was not measured is not in it."""

import hashlib
import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import logging

from ..evaluation.coco.table import format_figure
from ..export.runtime import is_export
from ..published_checkpoints import CODES
from ..runs.names import BOX_AP_PNG, DETECTIONS_PNG, FIGURES, LOSS_PNG
from ..runs.record import RunRecord, read_record
from .export_cards import export_card

logger = logging.get_logger(__name__)

TEMPLATE = Path(__file__).with_name("model_card.md")
CARD, BESIDE = "README.md", "README.new.md"  # the card, and where a new one goes if that was edited

_SEAL = "<!-- dino-detr wrote this card (seal {}). Edited, it is yours and never written over. -->\n"
_SEALED = re.compile(re.escape(_SEAL).replace(r"\{\}", "([0-9a-f]{16})") + r"\s*\Z")
_SIZES = {"APs": "small (below 32 x 32 pixels)", "APm": "medium", "APl": "large (above 96 x 96 pixels)"}
_PICTURES = {
    BOX_AP_PNG: "Average precision",
    LOSS_PNG: "Training loss",
    DETECTIONS_PNG: "What it finds in the first images of the split",
}
_DINOV3_LICENSE = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"


def write_card(folder: str | Path, license: str | None = None) -> Path:
    """
    Write the card of a run or checkpoint into its folder, as `README.md`.

    One that is there and was not written here, or was edited since, stays; the new one is `README.new.md` then, and a
    warning says so.

    Args:
        license: of the weights, as the Hub names it (`apache-2.0`, say); None: that of the card that is there.

    Returns:
        The file written.

    Raises:
        FileExistsError: if both were edited.
        FileNotFoundError, ValueError: see `read_record`.
    """
    card = make_card(folder, license=license)
    path, beside = Path(folder) / CARD, Path(folder) / BESIDE
    if is_edited(path):
        if is_edited(beside):
            raise FileExistsError(f"{path} and {BESIDE} were both edited: move one away")
        logger.warning(f"{path} was edited and stays as it is; the new card is {beside}")
        path = beside
    path.write_text(card, encoding="utf-8")
    return path


def is_edited(path: Path) -> bool:
    """Return whether a card is there that is not, to the letter, one that was written here."""
    if not path.exists():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    seal = _SEALED.search(text)
    return seal is None or seal[1] != _hash(text[: seal.start()])


def make_card(folder: str | Path, repo_id: str | None = None, license: str | None = None) -> str:
    """
    The card's text: the same for the same run.

    Args:
        folder: a run, or a checkpoint, of which less is known, or an export.
        repo_id: where on the Hub it goes; None: its usage names the folder.
        license: as in `write_card`.
    """
    folder = Path(folder)
    if is_export(folder):
        name = repo_id.split("/")[-1] if repo_id else folder.resolve().name
        return _sealed(export_card(folder, _plain(name), repo_id, license or _license_of(folder / CARD)))
    record = read_record(folder)
    recipe, config, figures = record.recipe, record.config, record.figures
    backbone = _backbone(record)
    legal = _license(license or _license_of(folder / CARD), backbone, bool(record.source))
    sources = _sources(record)
    split = recipe.get("eval_split") or recipe.get("train_split")
    name = repo_id.split("/")[-1] if repo_id else folder.resolve().name
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="object-detection",
        tags=["dino-detr", "object-detection"],
        base_model=backbone["base_model"],
        datasets=[name.partition(":")[0] for name, local in sources if "/" in name and not local] or None,
        model_name=name,
        eval_results=_eval_results(record, [name for name, _ in sources], split) or None,
        co2_eq_emissions={"emissions": 1000 * record.energy[1], "source": "codecarbon"} if record.energy else None,
        **legal["data"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=_plain(name),
        source=repo_id or name,
        pushed=repo_id is not None,
        backbone=backbone,
        origin=record.source,
        code=CODES.get(record.source.get("code", "")),
        sources=[(_code(name), local) for name, local in sources],
        weights=recipe.get("dataset_weights"),
        split=_code(split),
        overfit_images=recipe.get("overfit_images"),
        classes=[_plain(config["id2label"][str(index)]) for index in range(len(config["id2label"]))],
        step=figures.get("step"),
        figures=[format_figure(figures[f]) for f in FIGURES[:6]] if figures else None,
        per_class=_rows(figures, "per_class"),
        per_source=_rows(figures, "per_source"),
        limits=_limits(record),
        training=_training(record),
        pictures=[(title, path) for path, title in _PICTURES.items() if (folder / path).exists()],
        recipe=yaml.safe_dump(recipe).strip(),
        license_text=legal["text"],
        versions=", ".join(f"{k} {v}" for k, v in record.environment.get("versions", {}).items()),
    )
    return _sealed(str(card))


def _sealed(card: str) -> str:
    text = card.rstrip() + "\n\n"
    return text + _SEAL.format(_hash(text))


def _sources(record: RunRecord) -> list[tuple[str, bool]]:
    """Return the data sets that were trained on, each with whether it is of the author's own files."""
    dataset = record.recipe.get("dataset")
    if isinstance(dataset, list):
        return [(str(name), f"dataset[{index}]" in record.local) for index, name in enumerate(dataset)]
    return [(str(dataset), "dataset" in record.local)] if dataset else []


def _rows(figures: dict, parts: str) -> list[tuple[str, str, str]]:
    """Return name, AP and AP50 of each class or source."""
    return [
        (_plain(name), format_figure(each["AP"]), format_figure(each["AP50"]))
        for name, each in figures.get(parts, {}).items()
    ]


def _eval_results(record: RunRecord, sources: list[str], split: str | None) -> list[EvalResult]:
    """Return the figures that were measured, of all sources and of each, as the Hub's model index has them."""
    if not sources:
        return []
    overfit_images, measured = record.recipe.get("overfit_images"), {" + ".join(sources): record.figures}
    if len(sources) > 1:
        measured |= record.figures.get("per_source", {})
    seen = f" ({overfit_images} images that it was trained on)" if overfit_images else ""
    return [
        EvalResult(
            task_type="object-detection",
            dataset_type=name.partition(":")[0],
            dataset_name=name,
            dataset_split=f"{split}{seen}" if split else None,
            metric_type=f"box {figure}",
            metric_value=round(figures[figure], 4),
        )
        for name, figures in measured.items()
        for figure in FIGURES[:6]
        if figures.get(figure, -1) >= 0
    ]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(text: str) -> str:
    """Return a user's name for something as Markdown that shows it to the letter: no link, picture, HTML or cell."""
    escaped = re.sub(r"([\\`*_\[\]<>|~&:@])", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"www\.", r"www\\.", escaped, flags=re.IGNORECASE)


def _code(text: str | None) -> str | None:
    """Return a user's name for something as the inside of a Markdown code span."""
    return None if text is None else " ".join(str(text).split()).replace("`", "'")


def _backbone(record: RunRecord) -> dict:
    """Return `text`, `license_text`, the `base_model` on the Hub or None, and whether it is `dinov3`."""
    config = record.config["backbone_config"]
    kind, text, base_model = config["model_type"], f"a {config['model_type']} backbone", None
    dinov3 = "dinov3" in f"{kind} {config.get('backbone')}"  # timm's too, by its name
    if record.source:
        license_text = "part of the same file. What it was pretrained from has terms of its own"
        return {"text": text, "license_text": license_text, "base_model": None, "dinov3": False}
    option = next((name for name in ("model", "backbone") if record.recipe.get(name)), None)
    if option is None and "backbone_config" in (record.recipe.get("model_config") or {}):
        text, license_text, dinov3 = f"{text}, from random weights", "it had no weights of others", False
    else:
        if option is not None:
            source = record.recipe[option]
            text = f"{text}, trained on from" if option == "model" else f"{text}:"
            if option in record.local:
                text = f"{text} `{source}` (its author's own files)"
            else:
                base_model = f"timm/{source.removeprefix('timm:')}" if source.startswith("timm:") else source
                text = f"{text} [{base_model}](https://huggingface.co/{base_model})"
        if dinov3:
            license_text = f"[DINOv3 License]({_DINOV3_LICENSE})"
        elif (base_model or "").startswith("facebook/dinov2"):
            license_text = "Apache-2.0"
        else:
            license_text = f"see [{base_model}](https://huggingface.co/{base_model})" if base_model else "not known"
    return {"text": text, "license_text": license_text, "base_model": base_model, "dinov3": dinov3}


def _license(given: str | None, backbone: dict, converted: bool) -> dict:
    """Return what the author says, or what the backbone's licence asks of weights made from it, as DINOv3's does."""
    if given:
        return {"data": {"license": given}, "text": given}
    if backbone["dinov3"]:
        data = {"license": "other", "license_name": "dinov3-license", "license_link": _DINOV3_LICENSE}
        return {"data": data, "text": f"[DINOv3 License]({_DINOV3_LICENSE}), as their backbone's asks"}
    return {"data": {}, "text": "none is stated with them" if converted else "their author has not said"}


def _license_of(card: Path) -> str | None:
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    stated = re.search(r"^license: ([\w.-]+)$", text, re.MULTILINE)
    return stated[1] if stated and stated[1] != "other" else None


def _limits(record: RunRecord) -> list[str]:
    figures, size = record.figures, record.processor.get("size", {})
    limits = [f"At most {record.config['num_queries']} objects are found in an image, of the classes above alone."]
    if size:
        trained = record.recipe.get("image_sizes")
        limits.append(
            f"Images are resized to a shortest edge of {size['shortest_edge']} pixels, the longest at most "
            f"{size['longest_edge']}"
            + (f"; it was trained at shortest edges of {_range(trained)}." if trained else ".")
        )
    per_class = {label: each["AP"] for label, each in figures.get("per_class", {}).items() if each["AP"] >= 0}
    if len(per_class) > 3:
        weakest = sorted(per_class, key=lambda label: per_class[label])[:3]
        limits.append("Weakest classes: " + ", ".join(f"{_plain(k)} (AP {per_class[k]:.3f})" for k in weakest) + ".")
    if 0 <= figures.get("APs", -1) < figures["AP"]:
        limits.append(
            f"Objects that are {_SIZES['APs']} are found less well: AP {figures['APs']:.3f}, against "
            f"{figures['AP']:.3f} over all."
        )
    for name, what in _SIZES.items():
        if figures.get(name, 0) < 0:
            limits.append(f"No object that is {what} was there to measure.")
    if not figures:
        limits.append(f"How well it does was not measured{' here' if record.source else ''}.")
    return limits


def _range(sizes: list[int]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])


def _training(record: RunRecord) -> str | None:
    recipe, environment = record.recipe, record.environment
    if not record.metrics or not environment:
        return None
    steps = max(line["step"] for line in record.metrics + record.evaluations)
    seconds, former = 0.0, 0
    for line in record.metrics:
        seconds, former = seconds + line.get("seconds_per_step", 0) * (line["step"] - former), line["step"]
    device = f"{environment['processes']} x {environment['device']}"
    if environment["device"] == "CPU":
        threads = environment["threads"]
        device += f" with {threads} thread{'s' if threads != 1 else ''}"
    text = (
        f"{steps:,} steps of {recipe['total_batch_size']} images, about {_duration(seconds)} in them (evaluations not "
        f"counted) on {device}."
    )
    peak = max((line.get("peak_memory_mib", 0) for line in record.metrics), default=0)
    if peak:
        text += f" Peak memory of a process: {peak / 1024:.1f} GiB."
    if record.energy:
        text += f" Energy, as codecarbon measured it: {record.energy[0]:.3g} kWh, {1000 * record.energy[1]:.3g} g CO2."
    return text


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
