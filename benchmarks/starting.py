"""CPU seconds until the command answers, and of importing the package beside a transformers model: in turns, medians.

python benchmarks/starting.py [--rounds 7]
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
from importlib.metadata import version

COMMAND = "from dino_detr_command import main; main()"  # what the installed script does
WAYS = {
    "dino-detr --help": [COMMAND, "--help"],
    "dino-detr --version": [COMMAND, "--version"],
    "dino-detr trian (a mistyped verb)": [COMMAND, "trian"],
    "dino-detr evaluate --help": [COMMAND, "evaluate", "--help"],
    "dino-detr train --help": [COMMAND, "train", "--help"],
    "import dino_detr": ["import dino_detr"],
    "import transformers' Deformable DETR": ["import transformers.models.deformable_detr.modeling_deformable_detr"],
}


def measure(arguments: list[str]) -> float:
    """CPU seconds, of user and system, that a process of its own takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rows = [{way: measure(arguments) for way, arguments in WAYS.items()} for _ in range(rounds)]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"Python {platform.python_version()}, {versions}; medians of {rounds}\n\n| | CPU seconds |\n|---|---|")
    for way in WAYS:
        print(f"| {way} | {statistics.median(row[way] for row in rows):.2f} |")


if __name__ == "__main__":
    main()
