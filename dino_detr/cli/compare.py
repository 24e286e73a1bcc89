"""`dino-detr compare`: runs side by side."""

import argparse
from pathlib import Path

from ..outputs import claim_files, write_json


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("compare", help="runs side by side: figures, curves and the options that differ")
    verb.set_defaults(run=run)
    verb.add_argument("runs", metavar="RUN", nargs="+", help="run folders, two or more, finished or not")
    verb.add_argument(
        "--plot", default="comparison.png", metavar="FILE.png", help="draw the curves here (default: comparison.png)"
    )
    verb.add_argument("--output", metavar="FILE.json", help="write the table here too")


def run(options: argparse.Namespace) -> None:
    from ..evaluation.comparison import draw_comparison, format_comparison, read_runs, to_json

    claim_files(plot=options.plot, output=options.output)
    runs = read_runs(options.runs)
    print(format_comparison(runs))
    Path(options.plot).parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(runs, options.plot)
    print(f"\ncurves -> {options.plot}")
    if options.output:
        write_json(options.output, to_json(runs))
