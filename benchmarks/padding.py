"""How much of a batch is padding, and what ordering the samples costs: python benchmarks/padding.py

Sizes as COCO's train2017 has them, roughly; batches of 16; what each sample's size becomes is drawn as in training.
"""

import platform
import time

import numpy as np
import torch
from datasets import Dataset

from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.samples import TrainingSamples
from dino_detr.data.sampling import SizeGroupedSampler

COCO_SIZES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
SHARES = {
    (480, 640): 0.40, (640, 480): 0.12, (427, 640): 0.12, (640, 427): 0.06, (375, 500): 0.04, (500, 375): 0.02,
    (640, 640): 0.03, (333, 500): 0.02, (500, 333): 0.01, (426, 640): 0.02, (640, 426): 0.01,
}  # fmt: skip
BATCH = 16


def coco_like(count: int) -> Dataset:
    """Rows of sizes only; what `SHARES` leaves has a longer side of 640 pixels and any shorter one from 300."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(SHARES) + 1, size=count, p=[*SHARES.values(), 1 - sum(SHARES.values())])
    table = np.array([*SHARES, (640, 640)])[chosen]
    rest = np.flatnonzero(chosen == len(SHARES))
    table[rest, (rng.random(len(rest)) < 0.7).astype(int) ^ 1] = rng.integers(300, 641, len(rest))
    return Dataset.from_dict({"height": table[:, 0], "width": table[:, 1]})


def padded_share(order: list[int], sizes: torch.Tensor, batch: int = BATCH) -> float:
    """Of the pixels of all whole batches."""
    batches = sizes[torch.tensor(order[: len(order) // batch * batch])].reshape(-1, batch, 2).double()
    return 1 - (batches.prod(2).sum() / (batches.amax(1).prod(1).sum() * batch)).item()


def by_aspect(rows: Dataset) -> list[int]:
    """A random order in which batches are all upright or all not: the reference's."""
    upright = torch.tensor(rows["height"][:]) > torch.tensor(rows["width"][:])
    order = torch.randperm(len(rows))
    batches = []
    for group in (order[upright[order]], order[~upright[order]]):
        batches += group[: len(group) // BATCH * BATCH].split(BATCH)
    return torch.cat([batches[i] for i in torch.randperm(len(batches)).tolist()]).tolist()


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, 1 thread, torch {torch.__version__}; batches of {BATCH}\n")
    print("| images | augmentation | random order | upright or not | by size | in 4 processes | seconds an epoch |")
    print("|---|---|---|---|---|---|---|")
    for count in (118_287, 2_000, 200):
        rows = coco_like(count)
        for name in ("reference", "finetune", "none"):
            samples = TrainingSamples(rows, build_augmentation(name, COCO_SIZES, 1333), seed=0)
            started = time.perf_counter()
            order = list(SizeGroupedSampler(samples, BATCH))
            seconds = time.perf_counter() - started
            sizes = samples.draw_sizes()
            shares = [
                padded_share(torch.randperm(count).tolist(), sizes),
                padded_share(by_aspect(rows), sizes),
                padded_share(order, sizes),
                padded_share(order, sizes, BATCH // 4),
            ]
            cells = " | ".join(f"{share:.1%}" for share in shares)
            print(f"| {count:,} | {name} | {cells} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
