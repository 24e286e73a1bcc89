"""`dino-detr train`: a recipe becomes a run."""

import argparse
import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .common import ctrl_c_in_a_line, is_users_fault

if TYPE_CHECKING:
    from ..training import DinoDetrTrainingArguments


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verbs.add_parser("train", help="train a recipe: RECIPE [--option value ...]", add_help=False)


def run(arguments: list[str]) -> None:
    """Prepare a run and train, as `train.py` does."""
    with faults_in_a_line():
        from ..training import prepare, train

        options = parse(arguments)
        trainer = prepare(options)
    with endings_in_a_line():
        train(trainer)


def parse(arguments: list[str]) -> "DinoDetrTrainingArguments":
    """Return the options of a run. Print help instead, and exit, where that is asked for."""
    from ..training import parse_options

    if not arguments or {"-h", "--help"} & set(arguments):
        print(_help())
        sys.exit(0)
    return parse_options(arguments)


@contextmanager
def faults_in_a_line() -> Iterator[None]:
    """End the process with a line, not a traceback, at what is wrong with a run's options, data or weights."""
    with ctrl_c_in_a_line():
        from ..training.checkpointing.preemption import stopping_at_once
        from ..training.guards.out_of_memory import is_out_of_memory

        try:
            with stopping_at_once():
                yield
        except Exception as error:
            if is_out_of_memory(error):
                sys.exit(
                    "dino-detr: out of memory before the first step, with data and model: a smaller backbone needs less"
                )
            if not is_users_fault(error):
                raise
            sys.exit(f"dino-detr: {error}")


@contextmanager
def endings_in_a_line() -> Iterator[None]:
    """End the process with a line and the status of each way in which training can end before it is done."""
    from ..training.checkpointing.lock import FolderLost
    from ..training.checkpointing.preemption import Preempted, stopping_at_once
    from ..training.guards.nonfinite import NonFinite
    from ..training.guards.out_of_memory import OutOfMemory
    from ..training.guards.unreadable import TooManyUnreadable

    try:
        with ctrl_c_in_a_line(), stopping_at_once():
            yield
    except Preempted as ending:
        print(f"dino-detr: {ending}", file=sys.stderr)
        sys.exit(ending.exit_status)
    except (FolderLost, NonFinite, OutOfMemory, TooManyUnreadable) as error:
        sys.exit(f"dino-detr: {error}\n")  # in one write: other processes say theirs
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"dino-detr: {error.strerror}")


def _help() -> str:
    import textwrap
    from dataclasses import fields

    from transformers import TrainingArguments

    from ..training import DinoDetrTrainingArguments

    inherited = {f.name for f in fields(TrainingArguments)}
    lines = [
        "usage: dino-detr train RECIPE [--option value ...]",
        "",
        "RECIPE is a file, or the name of one that `dino-detr recipes` lists.",
        "",
        "options, in the recipe or here:",
    ]
    for option in fields(DinoDetrTrainingArguments):
        if option.name not in inherited and option.init:
            first, *rest = textwrap.wrap(option.metadata["help"], 90)
            lines += [f"  --{option.name:<25}{first}", *(" " * 29 + line for line in rest)]
    return "\n".join(
        [*lines, "", "and every field of transformers.TrainingArguments, such as --max_steps, --bf16, --seed"]
    )
