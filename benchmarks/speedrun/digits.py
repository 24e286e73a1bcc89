"""From random weights to an AP on `digits`, on a CPU: python benchmarks/speedrun/digits.py 0.65

Rules

- The data are `digits` as the package makes them: 4,000 scenes to train on, 250 to evaluate on.
- Training begins with random weights. Anything may be changed but the data and the evaluation.
- The quick start's recipe is the entry; RESULTS.md says what its lines are worth.
- Three seeds, one after the other, with nothing else running. The mean of their APs at the end reaches the target.
- The time is that of the training steps, reading and augmenting images included, evaluation and start-up not. It is
  compared with the entry before on the same machine, on the same day.

Each run prints a line of JSON, with AP every `--eval_steps` if that is given; the last line is an entry for RESULTS.md.
"""

import argparse
import json
import platform
import statistics
from pathlib import Path

import torch
import yaml

from dino_detr.runs.history import read_history
from dino_detr.runs.names import EVALUATION_JSONL, METRICS_JSONL
from dino_detr.training import parse_options, prepare, train

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "recipes" / "quickstart.yaml"
STEPS = {0.65: 450, 0.80: 950}  # by target


def run_once(steps: int, seed: int, folder: Path, eval_steps: int | None) -> dict:
    """Train once. Returns AP, AP50 and the seconds of the steps."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    each = eval_steps or steps
    recipe |= {"seed": seed, "max_steps": steps, "logging_steps": 1, "eval_steps": each, "save_steps": each}
    path = folder.with_name(f"{folder.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    train(prepare(parse_options([str(path), "--output_dir", str(folder), "--disable_tqdm", "true"])))
    seconds = [line.get("seconds_per_step", 0) for line in read_history(folder / METRICS_JSONL)]
    evaluations = read_history(folder / EVALUATION_JSONL)
    return {
        "seed": seed,
        "AP": round(evaluations[-1]["AP"], 4),
        "AP50": round(evaluations[-1]["AP50"], 4),
        "seconds": round(sum(seconds), 1),
        "AP_by_step": {line["step"]: round(line["AP"], 3) for line in evaluations},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=float, choices=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--eval_steps", type=int, help="evaluate as often (default: at the end)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", default="runs/speedrun", help="of the runs (default: runs/speedrun)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = []
    for seed in options.seeds:
        folder = Path(options.folder) / f"{options.target}-{seed}"
        runs.append(run_once(STEPS[options.target], seed, folder, options.eval_steps))
        print(json.dumps(runs[-1]), flush=True)
    entry = {
        "target": options.target,
        "AP": round(statistics.mean(run["AP"] for run in runs), 4),
        "seconds": statistics.median(run["seconds"] for run in runs),
        "runs": len(runs),
        "threads": options.threads,
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print(json.dumps(entry | {"reached": entry["AP"] >= options.target}))


if __name__ == "__main__":
    main()
