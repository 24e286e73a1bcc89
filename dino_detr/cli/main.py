"""The verbs, and what becomes of their errors."""

import argparse
import sys

from .. import __version__
from . import (
    benchmark,
    check_data,
    compare,
    convert,
    demo,
    evaluate,
    export,
    forecast,
    hub,
    import_data,
    predict,
    recipes,
    replay,
    train,
)
from .common import ctrl_c_in_a_line, is_users_fault

VERBS = (
    train,
    evaluate,
    predict,
    demo,
    check_data,
    import_data,
    recipes,
    compare,
    forecast,
    convert,
    export,
    hub,
    benchmark,
    replay,
)


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. What the user got wrong ends with one line, not with a traceback."""
    with ctrl_c_in_a_line():
        _run_verb(sys.argv[1:] if arguments is None else arguments)


def _run_verb(arguments: list[str]) -> None:
    if arguments[:1] == ["train"]:  # its options are those of the Trainer
        _import_model()
        train.run(arguments[1:])
        return
    options = build_parser().parse_args(arguments)
    try:
        _import_model()
        options.run(options)
    except Exception as error:
        from ..training.guards.out_of_memory import is_out_of_memory

        if is_out_of_memory(error):
            sys.exit("dino-detr: out of memory: fewer or smaller images at a time need less (--batch_size 1)")
        if not is_users_fault(error):
            raise
        sys.exit(f"dino-detr: {error}")


def _import_model() -> None:
    """Let transformers know the model, which a verb may load or save."""
    from .. import auto_classes  # noqa: F401


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs; no model or data library is imported for it."""
    description = "DINO detectors on vision foundation backbones: train, evaluate, predict, share."
    parser = argparse.ArgumentParser(prog="dino-detr", description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"dino-detr {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    return parser
