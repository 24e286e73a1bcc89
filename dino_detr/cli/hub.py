"""`dino-detr card` and `dino-detr push`: a run on the Hub."""

import argparse
from pathlib import Path


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("card", help="write the model card of a run from the run's own numbers")
    verb.set_defaults(run=run_card)
    verb.add_argument("folder", metavar="RUN", type=Path, help="run or checkpoint folder")
    verb.add_argument("--license", metavar="ID", help="of the weights, as the Hub names it: apache-2.0, say")

    verb = verbs.add_parser("push", help="upload a run to the Hub: weights, code, card, figures; or a Space")
    verb.set_defaults(run=run_push)
    verb.add_argument(
        "folder", metavar="RUN", type=Path, help="run or checkpoint folder, or one that `demo --space` wrote"
    )
    verb.add_argument("repo_id", metavar="REPO_ID", help="where to: you/detector; made if there is none")
    verb.add_argument("--private", action="store_true", help="make the repository private")
    verb.add_argument("--revision", metavar="TAG", help="name for what is uploaded: v1.0, say")
    verb.add_argument("--license", metavar="ID", help="of the weights, as the Hub names it: apache-2.0, say")


def run_card(options: argparse.Namespace) -> None:
    from ..hub import write_card

    print(f"{options.folder} -> {write_card(options.folder, options.license)}")


def run_push(options: argparse.Namespace) -> None:
    from ..hub import is_space, push_run, push_space

    if is_space(options.folder):
        if options.revision or options.license:
            raise ValueError("--revision and --license go with a run, not with a Space")
        print(f"{options.folder} -> {push_space(options.folder, options.repo_id, options.private or None)}")
        return
    url = push_run(
        options.folder, options.repo_id, options.private or None, tag=options.revision, license=options.license
    )
    print(f"{options.folder} -> {url}")
