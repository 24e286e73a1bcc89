"""A training step and an inference, ours beside transformers' Deformable DETR: python benchmarks/step.py

Both see the same images, with as many tokens, 900 queries and 80 classes; theirs with a ResNet-50 that is trained and
feed-forward layers half as wide, ours with a frozen ViT and 196 denoising queries besides. Weights are random, each
image has 7 boxes. A step is forward, every loss, backward, clipping and optimiser; data loading is not in it.

Each model is in a process of its own with the same threads, and they take turns, so that what else the machine does
meets all of them; then once more in new processes. One line of JSON for each case: the median of the rounds after each
process's first and their spread, the peak memory of the last process (libraries included), and which share of the
machine's rate of matrix products it reached.
"""

import argparse
import json
import platform
import statistics
from importlib.metadata import version

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
from turns import seconds, serve, take_turns

from dino_detr import DinoDetrConfig, DinoDetrForObjectDetection
from dino_detr.benchmark import BACKBONES, MAX_GRAD_NORM
from dino_detr.training import build_optimizer
from dino_detr.training.memory import peak_memory_mib

BOXES = 7
THEIRS = "transformers' Deformable DETR"
WAYS = (THEIRS, "ours, grid_sample", "ours")


def build_model(way: str, backbone: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if way == THEIRS:
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
    if way == "ours, grid_sample":
        model.set_deformable_sampling("plain")
    return model


class Candidate:
    """A model with its optimiser, under a precision."""

    def __init__(self, way: str, precision: str, backbone: str, batch: dict):
        self.batch, self.device = batch, batch["pixel_values"].device
        self.model = build_model(way, backbone).to(self.device)
        theirs = way == THEIRS
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


def gflop(work) -> float:
    """Of matrix products and convolutions, those that are done twice counted twice."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops() / 1e9


def matrix_rate(precision: str, device: torch.device) -> float:
    """GFLOP/s of a 4096 x 4096 x 4096 product, the better of PyTorch's two libraries."""
    x = torch.randn(4096, 4096, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, device=device)
    image = x.view(1, 4096, 1, 4096).permute(0, 3, 1, 2)
    ways = (lambda: x @ x, lambda: F.conv2d(image, x[:, :, None, None]))
    return max(2 * 4.096**3 / min(seconds(way) for _ in range(5)) for way in ways)


def serve_candidate(way: str, precision: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    candidate = Candidate(way, precision, options.backbone, make_batch(options.batch_size, options.image_size, device))

    def end() -> dict:
        peak, counted = round(peak_memory_mib()), {"train": gflop(candidate.train)}
        candidate.model.requires_grad_(False)  # or the counter would look for gradients
        return {"peak_mib": peak, "gflop": counted | {"infer": gflop(candidate.infer)}}

    serve(
        {
            "train": lambda: seconds(candidate.train),
            "infer": lambda: seconds(candidate.infer),
            "rate": lambda: matrix_rate(precision, device),
            "end": end,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--backbone", default="vit-s", choices=list(BACKBONES))
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--image_size", type=int, nargs=2, default=[640, 640], metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_candidate(*options.serve, options)
        return

    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} threads"
    packages = {name: version(name) for name in ("torch", "transformers")}
    for precision in options.precisions:
        ways = {way: (way, precision) for way in WAYS}
        times, servers = take_turns(ways, ["train", "infer"], options.rounds, options.processes)
        rate = statistics.median(servers[THEIRS].ask("rate") for _ in range(3))
        ends = {way: server.ask("end") for way, server in servers.items()}
        for server in servers.values():
            server.close()
        for (way, work), measured in times.items():
            median = statistics.median(measured)
            flops, peak = ends[way]["gflop"][work], ends[way]["peak_mib"]
            line = {
                "work": work,
                "precision": precision,
                "model": way,
                "seconds": round(median, 4),
                "spread": [round(min(measured), 4), round(max(measured), 4)],
                "times_faster_than_theirs": round(statistics.median(times[THEIRS, work]) / median, 2),
                "peak_mib": peak,
                "of_their_memory": round(peak / ends[THEIRS]["peak_mib"], 2),
                "gflop": round(flops),
                "share_of_matrix_rate": round(flops / median / rate, 3),
                "matrix_gflops": round(rate),
            }
            print(json.dumps(line | {"backbone": options.backbone, "batch_size": options.batch_size}), flush=True)
    print(json.dumps({"machine": machine, "python": platform.python_version(), **packages}))


if __name__ == "__main__":
    main()
