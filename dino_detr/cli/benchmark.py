"""`dino-detr benchmark`: seconds and memory of a training step."""

import argparse
from pathlib import Path

from ..outputs import check_writable


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("benchmark", help="seconds and memory of a training step, as a table")
    verb.set_defaults(run=run)
    verb.add_argument(
        "--backbones", nargs="+", default=["vit-s", "vit-b"], metavar="BACKBONE",
        help="vit-s, vit-b, vit-l, vit-g (random weights); a folder, Hub id or timm:<name> (default: vit-s vit-b)",
    )  # fmt: skip
    verb.add_argument(
        "--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"],
        help="fp16 needs a GPU (default: fp32 bf16)",
    )  # fmt: skip
    verb.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 2], metavar="N", help="(default: 1 2)")
    verb.add_argument("--image_size", nargs=2, type=int, default=[640, 640], metavar=("H", "W"), help="in pixels (640)")
    verb.add_argument("--gradient_checkpointing", action="store_true", help="add rows with it beside those without")
    verb.add_argument("--compile", action="store_true", help="add rows with torch.compile beside those without")
    verb.add_argument("--steps", type=int, default=5, help="steps of which the median is taken (default: 5)")
    verb.add_argument("--warmup", type=int, default=2, help="steps before those (default: 2)")
    verb.add_argument("--output", metavar="DIR", help="write benchmark.json, benchmark.md and benchmark.png here")


def run(options: argparse.Namespace) -> None:
    from ..benchmark import run_benchmark

    if options.output:
        check_writable(Path(options.output), "output")  # its files are looked at before the first row
    run_benchmark(**{name: value for name, value in vars(options).items() if name != "run"})
