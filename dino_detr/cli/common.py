"""Options, checks and endings that several verbs share."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

INTERRUPTED_STATUS = 130  # as shells have it


@contextmanager
def ctrl_c_in_a_line() -> Iterator[None]:
    """End the process with a line at Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ndino-detr: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)


def add_post_processing(verb: argparse.ArgumentParser) -> None:
    """Add the options that leave out duplicate detections."""
    verb.add_argument("--one_label_per_query", action="store_true", help="no box under several labels")
    verb.add_argument(
        "--nms_threshold", type=float, metavar="IOU", help="drop what overlaps a better detection by more (default: no)"
    )


def post_processing(options: argparse.Namespace) -> dict:
    """Return the keyword arguments that `add_post_processing` stands for."""
    return {"one_label_per_query": options.one_label_per_query, "nms_threshold": options.nms_threshold}


def add_device(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")


def check_batch_size(options: argparse.Namespace) -> None:
    if options.batch_size < 1:
        raise ValueError(f"--batch_size {options.batch_size}: at least 1")


def checked_rows(sources: list[str], split: str) -> "Dataset":
    """Return the rows that training would evaluate on. What is done to them is written to the terminal."""
    from ..data.check import check_sources
    from ..data.joining import describe_join, find_pitfalls, join_rows

    parts = {}
    for name, report in check_sources(sources, [split]):
        if report.defects:
            print(report.format(), file=sys.stderr)
        parts[name] = report.rows
    if len(parts) > 1:
        print(describe_join(parts), *find_pitfalls(parts), sep="\n", file=sys.stderr)
    return join_rows(parts)


def is_users_fault(error: Exception) -> bool:
    """Tell whether an error's message is meant for the user: bad input, a file, or an extra to install."""
    from huggingface_hub.errors import StrictDataclassError

    if isinstance(error, ImportError):
        return error.name is None  # ours; Python's own name the module
    return isinstance(error, (ValueError, OSError, StrictDataclassError))
