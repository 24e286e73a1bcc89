"""`dino-detr demo`: a page to try detectors on pictures."""

import argparse

from .common import add_device


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("demo", help="a page on this machine to try one detector, or two side by side")
    verb.set_defaults(run=run)
    verb.add_argument(
        "checkpoints", metavar="CHECKPOINT", nargs="+", help="checkpoint or export folder, or Hub id; at most two"
    )
    verb.add_argument("--port", type=int, help="port on loopback (default: the first free one from 7860 on)")
    verb.add_argument("--open", action="store_true", help="show it in the browser")
    verb.add_argument("--space", metavar="DIR", help="write the folder of a Hugging Face Space instead")
    add_device(verb)


def run(options: argparse.Namespace) -> None:
    from ..demo import serve, write_space

    if options.space is None:
        serve(options.checkpoints, options.device, options.port, options.open)
        return
    write_space(options.checkpoints, options.space)
    print(f"{', '.join(options.checkpoints)} -> {options.space}")
    print(f"upload it: dino-detr push {options.space} you/name-of-space")
