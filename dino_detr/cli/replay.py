"""`dino-detr replay`: the step at which a run met a number that is not finite."""

import argparse
import sys
from pathlib import Path


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("replay", help="run the step again at which a run met a number that is not finite")
    verb.set_defaults(run=run)
    verb.add_argument("dump", metavar="DUMP", type=Path, help="folder that the run left, nonfinite/step-<N>")


def run(options: argparse.Namespace) -> None:
    import torch

    from ..training.guards.dump import replay

    finite, report = replay(options.dump, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(f"dino-detr: {report}")
    sys.exit(0 if finite else 1)
