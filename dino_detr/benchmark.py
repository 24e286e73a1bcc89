"""
Seconds and memory of a training step, by backbone, precision and batch size.

Every row is measured in a process of its own, one after the other, so that no row has another's memory. That process is
`python -m dino_detr.benchmark ROW`, with the row's fields as JSON; its last line is what was measured, as JSON.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from . import __version__
from .configuration_dino_detr import DinoDetrConfig
from .modeling_dino_detr import DinoDetrForObjectDetection
from .training import build_optimizer
from .training.compilation import compile_layers
from .training.memory import peak_memory_mib
from .training.step import count_step, plan_step

# DINOv2's own shapes
BACKBONES = {
    "vit-s": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "vit-b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vit-l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vit-g": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # accelerate's names
BOXES_PER_IMAGE = 7  # the mean of COCO's training images
MAX_GRAD_NORM = 0.1  # the recipe's

# What the reference (dgcnz/edge) published: seconds per iteration and MiB, by backbone, batch size and precision
REFERENCE = {
    ("vit-b", 2): {"fp32": (0.8822, 11656), "fp16": (0.6083, 9916)},
    ("vit-s", 2): {"fp32": (0.7500, 11363), "fp16": (0.5973, 10031)},
}
REFERENCE_NOTE = (
    "The reference's own figures, for comparison: taken by its authors on their 16 GB GPU in float32 (fp32) and with "
    "float16 autocast (fp16), so on another machine than the rows above."
)

_COLUMNS = ("backbone", "precision", "batch", "checkpointing", "compile", "s / iteration", "images / s", "peak MiB")
_COLORS = {"fp32": "#0072B2", "bf16": "#D55E00", "fp16": "#009E73"}  # Okabe and Ito's


@dataclass
class Row:
    """
    The settings of one row.

    Args:
        backbone: a key of `BACKBONES`, or what `from_backbone` takes.
        precision: a key of `PRECISIONS`.
        image_size: (height, width) in pixels.
        warmup, steps: training steps before those that count, and those that count.
    """

    backbone: str
    precision: str
    batch_size: int
    image_size: tuple[int, int]
    gradient_checkpointing: bool = False
    compile: bool = False
    warmup: int = 2
    steps: int = 5


def run_benchmark(
    backbones: list[str],
    precisions: list[str],
    batch_sizes: list[int],
    image_size: tuple[int, int],
    gradient_checkpointing: bool,
    compile: bool,
    steps: int,
    warmup: int,
    output: str | None,
) -> None:
    """
    Measure every combination, print the table and, with `output`, write `benchmark.json`, `.md` and `.png` there.

    With `gradient_checkpointing` or `compile`, rows with it stand beside the rows without. A row that fails says why in
    the table, and the others go on.

    Raises:
        ValueError: for a backbone that is neither a size nor a place, fp16 without a GPU, a number below 1 (`warmup`:
            below 0), or if no row could be measured.
        FileExistsError: if `output` holds a benchmark already.
    """
    _check(backbones, precisions, [*batch_sizes, *image_size, steps], warmup)
    files = {} if output is None else {kind: Path(output) / f"benchmark.{kind}" for kind in ("json", "md", "png")}
    for path in files.values():
        if path.exists():
            raise FileExistsError(f"{path} exists already; choose another --output")
    extras = [{}]
    if gradient_checkpointing:
        extras.append({"gradient_checkpointing": True})
    if compile:
        extras.append({"compile": True})
    height, width = image_size
    rows = []
    for backbone in backbones:
        for batch_size in batch_sizes:
            for precision in precisions:
                for extra in extras:
                    row = Row(backbone, precision, batch_size, (height, width), **extra, warmup=warmup, steps=steps)
                    rows.append(_measure_apart(row))
                    print(f"{_name(rows[-1])}: {_summary(rows[-1])}", file=sys.stderr, flush=True)
    if all("error" in row for row in rows):
        raise ValueError(f"no row could be measured; the first: {rows[0]['error']}")

    report = {**_machine(), "image_size": list(image_size), "boxes_per_image": BOXES_PER_IMAGE, "rows": rows}
    text = _describe(report)
    print(text)
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
        files["json"].write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        files["md"].write_text(text + "\n", encoding="utf-8")
        _draw(report, files["png"])


def measure(row: Row) -> dict:
    """
    Time the row's training steps in this process.

    A step is what `DetectionTrainer` has the device do: noise, forward, backward, clipping, AdamW. The images are made
    up, of one size and on the device already; reading and augmenting images is not timed.

    Returns:
        `seconds_per_iteration` (the median), `images_per_second`, `peak_memory_mib` (see `peak_memory_mib`: of this
        process, from its start), `parameters`, `trainable_parameters`, `step_seconds` and `warmup_seconds` (of each
        step; with `compile`, the first one compiles).
    """
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision=PRECISIONS[row.precision], cpu=not torch.cuda.is_available())
    model = _build_model(row.backbone).train()
    if row.gradient_checkpointing:
        # (transformers renamed it)
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    parameters = list(model.parameters())
    sizes = {
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
    model, optimizer = accelerator.prepare(model, build_optimizer(model))
    if row.compile:
        compile_layers(model)
    batch = _make_batch(row, accelerator.device, model.config.num_labels)
    seconds = []
    for step in range(row.warmup + row.steps):
        _synchronize()
        started = time.perf_counter()
        _train_step(accelerator, model, optimizer, batch, step)
        _synchronize()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[row.warmup :])
    return sizes | {
        "seconds_per_iteration": median,
        "images_per_second": row.batch_size / median,
        "peak_memory_mib": peak_memory_mib(),
        "step_seconds": seconds[row.warmup :],
        "warmup_seconds": seconds[: row.warmup],
    }


def _build_model(backbone: str) -> DinoDetrForObjectDetection:
    if backbone not in BACKBONES:
        return DinoDetrForObjectDetection.from_backbone(backbone)
    shape = {"model_type": "dinov2", "image_size": 518, "patch_size": 16, **BACKBONES[backbone]}
    return DinoDetrForObjectDetection(DinoDetrConfig(backbone_config=shape))


def _make_batch(row: Row, device: torch.device, num_labels: int) -> dict:
    """Noise for images, and boxes of a tenth to four tenths of the image's sides, within it."""
    labels = []
    for _ in range(row.batch_size):
        size = 0.1 + 0.3 * torch.rand(BOXES_PER_IMAGE, 2, device=device)
        centre = size / 2 + (1 - size) * torch.rand(BOXES_PER_IMAGE, 2, device=device)
        classes = torch.randint(num_labels, (BOXES_PER_IMAGE,), device=device)
        labels.append({"class_labels": classes, "boxes": torch.cat([centre, size], dim=1)})
    return {
        "pixel_values": torch.randn(row.batch_size, 3, *row.image_size, device=device),
        "pixel_mask": torch.ones(row.batch_size, *row.image_size, dtype=torch.int64, device=device),
        "labels": labels,
    }


def _train_step(accelerator: Accelerator, model: Any, optimizer: torch.optim.Optimizer, batch: dict, step: int) -> None:
    batch_size = len(batch["labels"])
    batch = batch | {"noise_seeds": [step * batch_size + index for index in range(batch_size)]}
    counts = count_step([batch], model.config.num_denoising, stop=0, unreadable=0)
    outputs = plan_step(step, None, [batch], [counts]).forward(model, model.config, batch)
    accelerator.backward(outputs.loss)
    accelerator.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    model.zero_grad()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _measure_apart(row: Row) -> dict:
    """The row's fields and what `measure` says of it in a process of its own, or `error`: why there is nothing."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(row))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return asdict(row) | json.loads(done.stdout.splitlines()[-1])
    if done.returncode == -9:
        return asdict(row) | {"error": "killed, as happens where memory runs out"}
    return asdict(row) | {"error": f"its process ended with status {done.returncode}"}


def _measure_safely(row: Row) -> dict:
    try:
        return measure(row)
    except Exception as error:
        text = str(error).strip()
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            return {"error": "out of memory"}
        if row.compile and "compiler" in text:
            return {"error": "no C compiler, which torch.compile needs"}
        return {"error": f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"}


def _check(backbones: list[str], precisions: list[str], numbers: list[int], warmup: int) -> None:
    for backbone in backbones:
        is_source = Path(backbone).is_dir() or backbone.startswith("timm:") or backbone.count("/") == 1
        if backbone not in BACKBONES and not is_source:
            raise ValueError(
                f"no backbone {backbone}: it is neither a folder nor a Hub id, and the sizes are {', '.join(BACKBONES)}"
            )
    if "fp16" in precisions and not torch.cuda.is_available():
        raise ValueError("precision fp16 needs a GPU; bf16 works here")
    if min(numbers) < 1 or warmup < 0:
        raise ValueError("batch sizes, image sides and steps are at least 1, and warmup at least 0")


def _machine() -> dict:
    packages = ("torch", "transformers", "accelerate", "timm")
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({_processor()})",
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "versions": {"dino-detr": __version__, "python": platform.python_version()}
        | {name: version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _name(row: dict) -> str:
    extras = ["checkpointing"] * row["gradient_checkpointing"] + ["compiled"] * row["compile"]
    backbone = Path(row["backbone"]).name
    return ", ".join([backbone, row["precision"], f"batch {row['batch_size']}", *extras])


def _summary(row: dict) -> str:
    if "error" in row:
        return row["error"]
    return f"{row['seconds_per_iteration']:.3f} s / iteration, {row['peak_memory_mib']:.0f} MiB"


def _describe(report: dict) -> str:
    """The table with what it was measured on and, where they compare, the reference's rows; Markdown."""
    height, width = report["image_size"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    row = report["rows"][0]
    parts = [
        f"{report['device']}, {report['cpu_cores']} cores, {report['threads']} threads; {versions}.",
        f"A training step on images of {height}x{width} with {BOXES_PER_IMAGE} boxes each, the backbone frozen; data "
        f"loading is not in it. Median of {row['steps']} steps after {row['warmup']}; peak memory "
        f"{'on the GPU' if torch.cuda.is_available() else 'of the whole process'}.",
        _table([_cells(row) for row in report["rows"]]),
    ]
    kinds = dict.fromkeys((row["backbone"], row["batch_size"]) for row in report["rows"])
    published = [
        [backbone, precision, str(batch_size), "no", "no", f"{seconds:.4f}", f"{batch_size / seconds:.2f}", str(mib)]
        for backbone, batch_size in kinds
        for precision, (seconds, mib) in REFERENCE.get((backbone, batch_size), {}).items()
    ]
    if published:
        parts += [REFERENCE_NOTE, _table(published)]
    return "\n\n".join(parts)


def _cells(row: dict) -> list[str]:
    cells = [Path(row["backbone"]).name, row["precision"], str(row["batch_size"])]
    cells += ["yes" if row[extra] else "no" for extra in ("gradient_checkpointing", "compile")]
    if "error" in row:
        return [*cells, row["error"], "", ""]
    figures = (row["seconds_per_iteration"], row["images_per_second"], row["peak_memory_mib"])
    return [*cells, *(text.format(figure) for text, figure in zip(("{:.4f}", "{:.2f}", "{:.0f}"), figures))]


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(line[index]) for line in [_COLUMNS, *rows]) for index in range(len(_COLUMNS))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |" for line in [_COLUMNS, *rows]]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _draw(report: dict, path: Path) -> None:
    """Seconds and memory of each row, as bars side by side."""
    rows = report["rows"][::-1]  # the first on top
    figure = Figure(figsize=(12, 1.8 + 0.36 * len(rows)), layout="constrained")
    height, width = report["image_size"]
    figure.suptitle(f"A training step at {height}x{width} on {report['device']}, {report['threads']} threads")
    panels = figure.subplots(1, 2, sharey=True)
    colors = [_COLORS[row["precision"]] for row in rows]
    quantities = (("seconds_per_iteration", "seconds per iteration", "{:.3g}"), ("peak_memory_mib", "MiB", "{:.0f}"))
    for axes, (key, label, text) in zip(panels, quantities):
        bars = axes.barh(range(len(rows)), [row.get(key, 0) for row in rows], color=colors)
        axes.bar_label(bars, [text.format(row[key]) if key in row else "not measured" for row in rows], padding=3)
        axes.set_xlabel(label)
        axes.margins(x=0.15)
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [_name(row) for row in rows])
    panels[0].set_title("time")
    panels[1].set_title("peak memory")
    shown = [name for name in PRECISIONS if any(row["precision"] == name for row in rows)]
    figure.legend(
        handles=[Patch(color=_COLORS[name], label=name) for name in shown],
        loc="outside lower center",
        ncols=len(shown),
        frameon=False,
    )
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    print(json.dumps(_measure_safely(Row(**fields))))
