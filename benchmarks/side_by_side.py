"""A training step and an inference, ours beside transformers' Deformable DETR: python benchmarks/side_by_side.py

Both see the same images, with as many tokens, 900 queries and 80 classes; theirs with a ResNet-50 that is trained, ours
with a frozen ViT and denoising queries besides. Weights are random, data loading is not in it. The models take turns,
so that what else the machine does meets all of them; medians of the rounds. Memory is that of a process of its own
after two training steps, libraries included.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

import torch
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection
from dino_detr.benchmark import BACKBONES, MAX_GRAD_NORM
from dino_detr.training import build_optimizer
from dino_detr.training.memory import peak_memory_mib

BOXES = 7
WAYS = ("transformers' Deformable DETR", "ours, grid_sample", "ours")


def build_model(way: str, backbone: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if way == WAYS[0]:
        resnet = ResNetConfig(out_features=["stage2", "stage3", "stage4"])
        return DeformableDetrForObjectDetection(
            DeformableDetrConfig(
                backbone_config=resnet,
                two_stage=True,
                with_box_refine=True,
                num_queries=900,
                two_stage_num_proposals=900,
                auxiliary_loss=True,
                num_labels=80,
            )
        )
    shape = {"model_type": "dinov2", "image_size": 518, "patch_size": 16, **BACKBONES[backbone]}
    model = DinoDetrForObjectDetection(DinoDetrConfig(backbone_config=shape))
    if way == WAYS[1]:
        model.set_deformable_sampling("plain")
    return model


class Candidate:
    """A model with its optimiser, under a precision."""

    def __init__(self, way: str, precision: str, backbone: str, batch: dict):
        self.batch, self.device = batch, batch["pixel_values"].device
        self.model = build_model(way, backbone).to(self.device)
        theirs = way == WAYS[0]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4) if theirs else build_optimizer(self.model)
        self.autocast = precision == "bf16"

    def train(self) -> None:
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.model(**self.batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def infer(self) -> None:
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            self.model(self.batch["pixel_values"], self.batch["pixel_mask"])


def make_batch(batch_size: int, image_size: list[int], device: torch.device) -> dict:
    torch.manual_seed(0)
    size = 0.1 + 0.3 * torch.rand(batch_size, BOXES, 2)
    boxes = torch.cat([size / 2 + (1 - size) * torch.rand(batch_size, BOXES, 2), size], dim=2).to(device)
    classes = torch.randint(80, (batch_size, BOXES)).to(device)
    return {
        "pixel_values": torch.randn(batch_size, 3, *image_size).to(device),
        "pixel_mask": torch.ones(batch_size, *image_size, dtype=torch.int64, device=device),
        "labels": [{"class_labels": c, "boxes": b} for c, b in zip(classes, boxes)],
    }


def seconds(work) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit-s", choices=list(BACKBONES))
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--image_size", type=int, nargs=2, default=[640, 640], metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory_of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = make_batch(options.batch_size, options.image_size, device)
    if options.memory_of:
        candidate = Candidate(*options.memory_of, options.backbone, batch)
        candidate.train()
        candidate.train()
        print(json.dumps(peak_memory_mib()))
        return

    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{machine}; Python {platform.python_version()}, {packages}; {options.backbone}, {options.rounds} rounds\n")
    print("| precision | model | training step, s | against | inference, s | against | peak MiB | against |")
    print("|---|---|---|---|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        candidates = {way: Candidate(way, precision, options.backbone, batch) for way in WAYS}
        times = {(way, kind): [] for way in WAYS for kind in ("train", "infer")}
        for _ in range(options.rounds + 1):
            for (way, kind), measured in times.items():
                measured.append(seconds(getattr(candidates[way], kind)))
        del candidates
        first = None
        for way in WAYS:
            train, infer = (statistics.median(times[way, kind][1:]) for kind in ("train", "infer"))
            command = [sys.executable, *sys.argv, "--memory_of", way, precision]
            memory = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            first = first or (train, infer, memory)
            cells = [
                f"{train:.3f}",
                f"{first[0] / train:.2f}x faster",
                f"{infer:.3f}",
                f"{first[1] / infer:.2f}x faster",
            ]
            print(
                f"| {precision} | {way} | {' | '.join(cells)} | {memory:.0f} | {memory / first[2]:.2f}x |", flush=True
            )


if __name__ == "__main__":
    main()
