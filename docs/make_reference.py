"""
Writes what follows from the code: the pages of options and commands, and the table of published detectors.

Run: python docs/make_reference.py
"""

import argparse
import re
from dataclasses import MISSING, fields
from enum import Enum
from inspect import get_annotations
from pathlib import Path
from typing import Any, get_args, get_type_hints

from transformers import TrainingArguments

from dino_detr import cli
from dino_detr.published_checkpoints import CODES, read_published
from dino_detr.training import DinoDetrTrainingArguments
from dino_detr.training.option_names import REFUSED

FOLDER = Path(__file__).parent
WRITTEN = "<!-- Written by docs/make_reference.py: change the code, then run it. -->\n"

TRAINED = "guides/trained_detectors.md"

OPTIONS = """# Options

{written}
A run's options are the fields of `DinoDetrTrainingArguments`, in a recipe, on the command line (two dashes before the
name) or in Python. The rules are in [Train](../guides/training.md#change-options).

## Options of dino-detr

{ours}

## transformers' options with other defaults

The remaining fields of `transformers.TrainingArguments` keep their meaning and default. These have other defaults here:

{inherited}

An option of transformers that would have no effect here is an error that gives the reason.
"""

CLI = """# Command line

{written}
`--help` after a verb prints the same. `python -m dino_detr.cli` is `dino-detr`. A verb whose output exists already
refuses before its work.

| verb | does |
|---|---|
{overview}

{verbs}
"""

TRAIN = """`dino-detr train RECIPE [--option value ...]`

RECIPE is a file, or one of the [recipes](recipes.md) by name. Its [options](options.md) have a page of their own."""


def options_page() -> str:
    """Build the page of the training options from the fields' metadata."""
    transformers_names = {option.name for option in fields(TrainingArguments)}
    known = [option for option in fields(DinoDetrTrainingArguments) if option.init]
    own_annotations = get_annotations(DinoDetrTrainingArguments)
    ours = [option for option in known if option.name not in transformers_names]
    redefined = [option for option in known if option.name in transformers_names & own_annotations.keys()]
    inherited = [option for option in redefined if option.name not in REFUSED]
    return OPTIONS.format(written=WRITTEN, ours=_options_table(ours), inherited=_options_table(inherited))


def cli_page() -> str:
    """Build the page of the verbs from their parsers."""
    verbs = next(a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {action.dest: action.help or "" for action in verbs._choices_actions}
    overview = "\n".join(f"| [`{name}`](#{name}) | {_cell(summaries[name])} |" for name in verbs.choices)
    sections = [f"## {name}\n\n{_verb(name, parser)}" for name, parser in verbs.choices.items()]
    return CLI.format(written=WRITTEN, overview=overview, verbs="\n\n".join(sections))


def trained_detectors_page() -> str:
    """Build the guide to trained detectors as it stands, with the table of today's."""
    text = (FOLDER / TRAINED).read_text(encoding="utf-8")
    published = read_published().values()
    rows = [
        (f"`{each.name}`", each.backbone, str(each.epochs), str(each.box_ap), f"{each.millions} M", _place(each.place))
        for code in CODES.values()
        for each in published
        if each.code is code
    ]
    table = _table(("name", "backbone", "epochs", "box AP", "parameters", "where"), rows)
    sources = "\n".join(
        f"- `{code.name}`: code {code.license or 'without a stated licence'}, "
        f"{'fetched by hand' if code.by_hand else 'downloaded'} from [here]({code.place})"
        for code in CODES.values()
    )
    begin, end = (
        re.escape(f"<!-- {mark} -->\n") for mark in ("table of dino_detr/published_checkpoints.csv", "end of table")
    )
    return re.sub(
        f"({begin}).*?({end})", lambda found: f"{found[1]}\n{table}\n\n{sources}\n\n{found[2]}", text, flags=re.S
    )


def _place(place: str) -> str:
    """Return a link to a file, or to what it lies in."""
    if place.startswith("hf://"):
        owner, repository, file = place.removeprefix("hf://").split("/", 2)
        place = f"https://huggingface.co/{owner}/{repository}/blob/main/{file}"
    return f"[{'Google Drive' if 'drive.google' in place else 'file'}]({place})"


def _verb(name: str, parser: argparse.ArgumentParser) -> str:
    if name == "train":
        return TRAIN
    actions = [action for action in parser._actions if action.dest != "help"]
    words, rows = ["dino-detr", name], []
    for action in sorted(actions, key=lambda action: bool(action.option_strings)):
        value = "" if action.nargs == 0 else _value(action)
        written = " ".join(filter(None, [*action.option_strings[-1:], value]))
        if action.required:
            words.append(written)
        elif not action.option_strings:
            words.append(f"[{written}]")
        rows.append((f"`{written}`", _help(action, parser)))
    if any(action.option_strings and not action.required for action in actions):
        words.append("[options]")
    return f"`{' '.join(words)}`\n\n{_table(('argument', 'meaning'), rows)}"


def _value(action: argparse.Action) -> str:
    """Return what is to be written for an argument's value."""
    if action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    elif isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    else:
        value = action.metavar or action.dest.upper()
    return f"{value} ..." if action.nargs == "+" else value


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return (action.help or "") % {**vars(action), "prog": parser.prog}


def _options_table(options: list) -> str:
    kinds = get_type_hints(DinoDetrTrainingArguments)
    rows = [
        (f"`{option.name}`", f"`{_kind(kinds[option.name])}`", _default(option), option.metadata["help"])
        for option in options
    ]
    return _table(("option", "type", "default", "meaning"), rows)


def _kind(annotation: Any) -> str:
    """Return a type as a reader of recipes needs it: without None, which is leaving the option out."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if not parts or getattr(annotation, "__origin__", None) is list:
        return str(annotation) if parts else annotation.__name__
    names = [_kind(part) for part in parts if not (isinstance(part, type) and issubclass(part, Enum))]
    return " | ".join(names)


def _default(option: Any) -> str:
    value = option.default if option.default_factory is MISSING else option.default_factory()
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(getattr(value, "value", value))


def _cell(text: str) -> str:
    """Return a text as it is written in a table: one line, `|` and, outside of code, `<` escaped."""
    code_and_others = re.split(r"(`[^`]*`)", re.sub(r"\s+", " ", text).replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in code_and_others)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


PAGES = {"reference/options.md": options_page, "reference/cli.md": cli_page, TRAINED: trained_detectors_page}

if __name__ == "__main__":
    for name, build in PAGES.items():
        (FOLDER / name).write_text(build(), encoding="utf-8")
