"""
Train the same short runs with two checkouts and compare what they record, digit by digit.

    PYTHONPATH=tests python -m helpers.same_losses BEFORE [AFTER]

BEFORE is a folder with another commit (`git worktree add /tmp/before main`), AFTER this checkout unless it is given.
For changes that must not change behaviour: losses, gradient norms, learning rates and figures of every line of
`metrics.jsonl` and `evaluation.jsonl` and the bytes of the final weights have to be equal.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from helpers.launching import RECIPE, ROOT
from helpers.scenes import write_scenes

OF_THE_MACHINE = {"seconds_per_step", "data_wait_share", "peak_memory_mib", "seconds"}
RUNS = {
    "plain": ["--max_steps", "12", "--eval_steps", "6", "--save_steps", "6"],
    "average, accumulation, augmentation": [
        *("--max_steps", "12", "--ema_decay", "0.9", "--gradient_accumulation_steps", "2"),
        *("--augmentation", "reference", "--total_batch_size", "8"),
    ],
    "bf16, unfrozen, resumed": ["--max_steps", "8", "--bf16", "true", "--freeze_backbone", "false"],
}


def train(checkout: Path, options: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *options, "--output_dir", str(folder)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def numbers_of(folder: Path) -> list[dict]:
    """What a run recorded, without what depends on the machine's speed, and its weights last."""
    lines = [
        {key: value for key, value in json.loads(line).items() if key not in OF_THE_MACHINE}
        for name in ("metrics.jsonl", "evaluation.jsonl")
        for line in (folder / name).read_text().splitlines()
    ]
    return [*lines, {"model.safetensors": (folder / "model.safetensors").read_bytes()}]


def compare(before: Path, after: Path) -> None:
    """
    Raises:
        SystemExit: naming the run, the line and the field that differ.
    """
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        write_scenes(home / "data", {"train": 9, "val": 7})
        recipe = home / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"dataset": str(home / "data"), **RECIPE}))
        for number, (name, options) in enumerate(RUNS.items()):
            recorded = []
            for checkout in (before, after):
                folder = home / f"{number} {len(recorded)}"
                options = [str(recipe), *RUNS[name], "--logging_steps", "1"]
                train(checkout, options, folder)
                if "resumed" in name:
                    steps = str(2 * int(options[options.index("--max_steps") + 1]))
                    train(checkout, [*options, "--max_steps", steps, "--resume_from_checkpoint", "latest"], folder)
                recorded.append(numbers_of(folder))
            for line, (first, second) in enumerate(zip(*recorded, strict=True), 1):
                for key in first.keys() | second.keys():
                    if first.get(key) != second.get(key):
                        shown = "" if key == "model.safetensors" else f": {first.get(key)} and {second.get(key)}"
                        raise SystemExit(f"{name}: line {line} differs in {key}{shown}")
            print(f"{name}: {len(recorded[0]) - 1} lines and the weights are identical")


if __name__ == "__main__":
    compare(Path(sys.argv[1]).resolve(), Path(sys.argv[2] if len(sys.argv) > 2 else ROOT).resolve())
