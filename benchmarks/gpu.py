"""Everything that waits for a GPU, in ten minutes: bash benchmarks/gpu.sh [--cpu] [--output FOLDER]

Each part is a process with a limit of its own; one that fails or is cut off leaves the others be. The folder gets
`gpu.json` (every line that the parts print), `gpu.md` (tables for RESULTS.md, with machine and versions) and the parts'
logs. The last lines printed are the verdict: whether the kernels are right, and which aims are reached. The exit status
is 1 if a kernel is wrong or a part failed. `--cpu`: the same on any machine with everything reduced, to see that it
works; its times mean nothing.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml

from dino_detr.benchmark import BACKBONES, PRECISIONS, REFERENCE
from dino_detr.runs.history import read_history

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"
AIM = 0.25  # seconds a step of the 12-epoch recipe at batch 16: 58,000 steps, to 50 AP, are 4 hours then


@dataclass
class Part:
    """
    Args:
        command: a script beside this one, or a module after `-m`, with its arguments; it prints lines of JSON.
        limit: seconds, at most.
    """

    name: str
    command: list[str]
    limit: int


def plan(cpu: bool, output: Path) -> list[Part]:
    """Return the parts; their limits sum up to ten minutes."""
    small = ["--image_size", "64", "64"]
    size = small if cpu else ["--image_size", "640", "640"]
    large = ["--backbone", "vit-b", "--image_size", "800", "1333"]
    once = ["--rounds", "1", "--processes", "1", "--precisions", "bf16"]
    train = ["-m", "dino_detr.cli", "train", str(write_recipe(cpu, output)), "--disable_tqdm", "true"]
    eager = ["inference.py", "--ways", "ours, eager", "ours, eager, bf16 autocast"]
    rows = ["-m", "dino_detr.cli", "benchmark", *size, "--output", str(output / "benchmark")]
    if cpu:
        few = ["--backbones", "vit-s", "--precisions", "bf16", "--batch_sizes", "1", "--steps", "1", "--warmup", "1"]
        short = ["--backbone", "vit-s", "--batch_size", "1", "--steps", "1"]
        return [
            Part("kernels", ["sampling_agreement.py", *small, "--queries", "50"], 600),
            Part("profile", ["profile_step.py", *small, *short], 600),
            Part("recipe", train, 600),
            Part("benchmark", [*rows, *few], 600),
            Part("sampling", ["deformable_attention.py", *small, *once], 600),
            Part("inference", [*eager, *small, "--rounds", "1"], 600),
            Part("step", ["step.py", "--image_size", "256", "256", *once], 600),
        ]
    full = ["--backbones", "vit-s", "vit-b", "--precisions", *PRECISIONS, "--batch_sizes", "2", "16", "--compile"]
    parts = [
        Part("kernels", ["sampling_agreement.py"], 40),
        Part("profile", ["profile_step.py"], 50),
        Part("recipe", train, 150),
        Part("benchmark", [*rows, *full], 150),
        Part("sampling", ["deformable_attention.py", *size, "--processes", "1"], 60),
        Part("inference", [*eager, *large, "--rounds", "10"], 50),
        Part("step", ["step.py", *size, "--processes", "1", "--batch_size", "16"], 70),
    ]
    if has_tensorrt():
        ways = ["--ways", "ours, eager", "ours, TensorRT", "--folder", str(output / "exports")]
        parts.append(Part("TensorRT", ["inference.py", *ways, *large], 30))
    return parts


def has_tensorrt() -> bool:
    if find_spec("onnxruntime") is None or not torch.cuda.is_available():
        return False
    import onnxruntime

    return "TensorrtExecutionProvider" in onnxruntime.get_available_providers()


def write_recipe(cpu: bool, output: Path) -> Path:
    """Write the 12-epoch recipe for 200 steps, on generated images, with random weights in the backbone."""
    recipe = yaml.safe_load((RECIPES / "coco_12ep_base.yaml").read_text(encoding="utf-8"))
    for name in ("backbone", "patch_size", "eval_steps", "save_steps", "save_total_limit"):
        del recipe[name]
    shape = {"model_type": "dinov2", "image_size": 518, "patch_size": 16, **BACKBONES["vit-s" if cpu else "vit-b"]}
    recipe |= {
        "dataset": "digits", "train_split": "train", "eval_split": "val", "output_dir": str(output / "run"),
        "model_config": {"backbone_config": shape}, "max_steps": 200, "lr_decay_steps": [0.9], "logging_steps": 20,
        "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
        "dataloader_num_workers": min(recipe["dataloader_num_workers"], os.cpu_count() or 1),
    }  # fmt: skip
    if cpu:
        small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        recipe["model_config"] |= small
        recipe |= {
            "max_steps": 4, "total_batch_size": 1, "image_sizes": [64], "max_image_size": 96, "logging_steps": 2,
            "num_queries": 50, "num_denoising": 10, "dataloader_num_workers": 0, "use_cpu": True,
        }  # fmt: skip
    path = output / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def run_part(part: Part, output: Path, environment: dict[str, str]) -> dict:
    """Return the lines of JSON that a part printed, its seconds, and its fault, if it has one."""
    started, log = time.perf_counter(), output / f"{part.name}.log"
    with log.open("w", encoding="utf-8") as file:
        first, *arguments = part.command
        command = [sys.executable, first if first == "-m" else str(HERE / first), *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, env=environment,
            cwd=HERE.parent, start_new_session=True,
        )  # fmt: skip
        try:
            printed, fault = process.communicate(timeout=part.limit)[0], None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            printed, fault = process.communicate()[0], f"cut off after {part.limit} s"
    if fault is None and process.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        fault = f"ended with status {process.returncode}: {' '.join(last)}"
    with log.open("a", encoding="utf-8") as file:
        file.write(printed)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"')]
    return {"part": part.name, "seconds": round(time.perf_counter() - started, 1), "fault": fault, "lines": lines}


def read_recorded(results: dict[str, dict], output: Path) -> None:
    """Add what two parts write into files: the rows of the benchmark, the steps of the run."""
    benchmark, metrics = output / "benchmark" / "benchmark.json", output / "run" / "metrics.jsonl"
    if benchmark.is_file():
        results["benchmark"]["lines"] = json.loads(benchmark.read_text(encoding="utf-8"))["rows"]
    if metrics.is_file():
        steps = [step for step in read_history(metrics) if "seconds_per_step" in step]
        names = ("step", "loss", "seconds_per_step", "data_wait_share", "peak_memory_mib")
        results["recipe"]["lines"] = [{name: step[name] for name in names} for step in steps]


def judge(results: dict[str, dict]) -> dict[str, bool | None]:
    """Return each claim with whether it holds; None where nothing was measured."""
    kernels = [line["right"] for line in results["kernels"]["lines"]]
    verdict: dict[str, bool | None] = {
        "kernels: the definition's values and gradients": all(kernels) if kernels else None
    }
    for name, result in results.items():
        verdict[f"{name}: {result['fault'] or 'ran through'}"] = result["fault"] is None
    for row in results["benchmark"]["lines"]:
        theirs = REFERENCE.get((row["backbone"], row["batch_size"]), {}).get(row["precision"])
        if theirs is not None and "seconds_per_iteration" in row and not row["compile"]:
            ours = row["seconds_per_iteration"], row["peak_memory_mib"]
            claim = f"{row['backbone']}, batch {row['batch_size']}, {row['precision']}: {ours[0]:.3f} s, {ours[1]} MiB"
            verdict[f"{claim}, less than the reference's {theirs[0]} s, {theirs[1]} MiB"] = (
                ours[0] < theirs[0] and ours[1] < theirs[1]
            )
    steps = [line["seconds_per_step"] for line in results["recipe"]["lines"][1:]]
    seconds = statistics.median(steps) if steps else None
    took = "" if seconds is None else f" ({seconds:.3f} s)"
    verdict[f"12-epoch recipe: a step takes {AIM} s at most{took}"] = None if seconds is None else seconds <= AIM
    waits = [sum(line["waits"].values()) for line in results["profile"]["lines"] if line["waits"] is not None]
    verdict["profile: the CPU waits for the GPU once a step at most"] = waits[0] <= 1 if waits else None
    return verdict


def describe(machine: dict, results: dict[str, dict], verdict: dict[str, bool | None]) -> str:
    """Return the tables."""
    text = [
        "## On a GPU",
        "",
        "`bash benchmarks/gpu.sh`: " + ", ".join(f"{k} {v}" for k, v in machine.items()) + ".",
        "",
    ]
    answers = {True: "yes", False: "no", None: "not measured"}
    text += ["| claim | holds |", "|---|---|", *(f"| {what} | {answers[answer]} |" for what, answer in verdict.items())]
    for name, result in results.items():
        tables: dict[tuple[str, ...], list[dict]] = {}
        for line in result["lines"]:
            if "machine" not in line:
                tables.setdefault(tuple(line), []).append(line)
        for columns, lines in tables.items():
            text += ["", f"### {name}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            text += [f"| {' | '.join(_cell(line[column]) for column in columns)} |" for line in lines]
    return "\n".join(text) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value).replace("|", "\\|") if isinstance(value, (dict, list)) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="everything reduced, on the CPU")
    parser.add_argument("--output", default="runs/gpu", help="folder (default: runs/gpu)")
    options = parser.parse_args()
    output = Path(options.output).resolve()
    if output.exists():
        sys.exit(f"{output} is there already: move it away, or choose another --output")
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("there is no GPU here; --cpu tries everything without one")
    output.mkdir(parents=True)

    environment = dict(os.environ)
    if options.cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    paths = [str(HERE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    name = "CPU" if options.cpu else torch.cuda.get_device_name()
    machine = {"on": name, "Python": platform.python_version(), **{p: version(p) for p in ("torch", "transformers")}}
    results: dict[str, dict] = {}
    for part in plan(options.cpu, output):
        results[part.name] = run_part(part, output, environment)
        print(f"{part.name}: {results[part.name]['fault'] or 'done'} in {results[part.name]['seconds']} s", flush=True)
    read_recorded(results, output)
    verdict = judge(results)
    report = {"machine": machine, "results": results, "verdict": verdict}
    (output / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (output / "gpu.md").write_text(describe(machine, results, verdict), encoding="utf-8")
    for what, answer in verdict.items():
        print(f"{ {True: 'yes', False: 'NO ', None: '?  '}[answer] } {what}")
    wrong = any(line["right"] is False for line in results["kernels"]["lines"])
    sys.exit(1 if wrong or any(result["fault"] for result in results.values()) else 0)


if __name__ == "__main__":
    main()
