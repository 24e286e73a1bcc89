"""Draws docs/images/schedules.png: the learning rates of the COCO recipes. Run: python docs/plot_schedules.py"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from dino_detr.training import parse_options
from dino_detr.training.optimizer import build_step_schedule

ROOT = Path(__file__).parent.parent


def rates(recipe: str) -> tuple[list[int], list[float]]:
    """The rate at every step of the first 600, then at every 50th."""
    options = parse_options([str(ROOT / "recipes" / f"{recipe}.yaml"), "--bf16", "false"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=options.learning_rate)
    schedule = build_step_schedule(optimizer, options.max_steps, options.lr_decay_steps, int(options.warmup_steps))
    (factor,) = schedule.lr_lambdas
    steps = [*range(600), *range(600, options.max_steps, 50), options.max_steps - 1]
    return steps, [options.learning_rate * factor(step) for step in steps]


figure = Figure(figsize=(9, 3.4), layout="constrained")
axes = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1, 2, 2]}, sharey=True)
titles = {
    "coco_12ep_large": ("warm-up (large, giant)", 600),
    "coco_12ep_base": ("12 epochs", None),
    "coco_50ep_base": ("50 epochs", None),
}
for ax, (recipe, (title, end)) in zip(axes, titles.items()):
    steps, values = rates(recipe)
    ax.plot(steps, values, color="#0072B2", label="detector")
    ax.plot(steps, [0.1 * value for value in values], color="#D55E00", label="pyramid (and backbone, if trained)")
    ax.set(title=title, xlabel="step", xlim=(0, end), yscale="log", ylim=(5e-8, 2e-4))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if end is None:
        ax.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
axes[0].set_ylabel("learning rate")
axes[1].legend(frameon=False, loc="lower center")
figure.savefig(ROOT / "docs" / "images" / "schedules.png", dpi=110)
