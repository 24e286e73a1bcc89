"""`dino-detr train`: a recipe becomes a run."""

import sys

from .common import is_users_fault


def add_parser(verbs) -> None:
    verbs.add_parser("train", help="train a recipe: RECIPE [--option value ...]", add_help=False)


def run(arguments: list[str]) -> None:
    """Prepare a run and train. Every way in which a run can end has its exit status and its line."""
    from ..training.checkpointing.preemption import stopping_at_once

    with stopping_at_once():
        _run(arguments)


def _run(arguments: list[str]) -> None:
    import errno

    from ..training import train
    from ..training.checkpointing.lock import FolderLost
    from ..training.checkpointing.preemption import Preempted
    from ..training.guards.nonfinite import NonFinite
    from ..training.guards.out_of_memory import OutOfMemory, is_out_of_memory
    from ..training.guards.unreadable import TooManyUnreadable

    try:
        trainer = prepare_training(arguments)
    except Exception as error:
        if is_out_of_memory(error):
            sys.exit(
                "dino-detr: out of memory before the first step, with data and model: a smaller backbone needs less"
            )
        if not is_users_fault(error):
            raise
        sys.exit(f"dino-detr: {error}")
    if trainer is None:
        return
    try:
        train(trainer)
    except Preempted:
        print(f"dino-detr: stopped by a signal at step {trainer.state.global_step}; go on with the same command and "
              "--resume_from_checkpoint latest", file=sys.stderr)  # fmt: skip
        sys.exit(trainer.preemption.exit_status)
    except (FolderLost, NonFinite, OutOfMemory, TooManyUnreadable) as error:
        sys.exit(f"dino-detr: {error}\n")  # in one write: other processes say theirs
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"dino-detr: {error.strerror}")


def prepare_training(arguments: list[str]):
    """Return the trainer that the arguments ask for; None where they ask for help."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_help())
        return None
    from ..training import parse_options, prepare

    return prepare(parse_options(arguments))


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
