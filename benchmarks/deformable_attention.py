"""Deformable sampling alone, ours beside transformers': python benchmarks/deformable_attention.py

At the sizes of an encoder layer (each token a query) and of a decoder layer; 8 heads of 32 channels, 4 levels, 4
points, samples a few cells around; bf16 is autocast's: values in bf16, the rest in float32. `forward` is without
gradients, `both` forward and backward for values, locations and weights. Each way is in a process of its own with the
same threads, and they take turns. One line of JSON for each case: the median of the rounds after the first, and their
spread.
"""

import argparse
import json
import platform
import statistics
from importlib.metadata import version

import torch
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention
from turns import seconds, serve, take_turns

from dino_detr.deformable_attention import deformable_sampling

THEIRS = "transformers'"
HEADS, WIDTH, POINTS, STRIDES = 8, 32, 4, (8, 16, 32, 64)


class Case:
    """Values, locations and weights of one image, made up."""

    def __init__(self, way: str, queries: str, precision: str, image_size: list[int]):
        torch.manual_seed(0)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.way, self.shapes = way, [(image_size[0] // stride, image_size[1] // stride) for stride in STRIDES]
        tokens = sum(h * w for h, w in self.shapes)
        cells = torch.tensor([(w, h) for h, w in self.shapes])[:, None]  # [levels, 1, 2]
        centres = torch.rand(1, tokens if queries == "encoder" else int(queries), 1, 1, 1, 2)
        if queries == "encoder":  # in the order of the tokens, as there
            grids = [
                torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w) for h, w in self.shapes
            ]
            centres = torch.cat(grids).flip(-1).view(centres.shape)
        locations = centres + 2 * torch.randn(1, centres.shape[1], HEADS, len(STRIDES), POINTS, 2) / cells
        weights = torch.randn(*locations.shape[:3], len(STRIDES) * POINTS).softmax(-1).view(locations.shape[:-1])
        value = torch.randn(1, tokens, HEADS, WIDTH, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
        self.inputs = [tensor.to(device).requires_grad_() for tensor in (value, locations, weights)]
        self.sizes = torch.tensor(self.shapes, device=device)
        self.starts = torch.cat([self.sizes.new_zeros(1), self.sizes.prod(1).cumsum(0)[:-1]])
        self.gradient = torch.randn(1, centres.shape[1], HEADS * WIDTH, device=device)

    def sample(self) -> torch.Tensor:
        value, locations, weights = self.inputs
        if self.way != THEIRS:
            return deformable_sampling(value, self.shapes, locations, weights, self.way)
        with torch.autocast(value.device.type, torch.bfloat16, enabled=value.dtype == torch.bfloat16):
            return MultiScaleDeformableAttention()(value, self.sizes, self.shapes, self.starts, locations, weights, 64)

    def forward(self) -> None:
        with torch.no_grad():
            self.sample()

    def both(self) -> None:
        output = self.sample()
        torch.autograd.grad(output, self.inputs, self.gradient.to(output.dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, nargs=2, default=[640, 640], metavar=("H", "W"))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        torch.set_num_threads(options.threads)
        case = Case(*options.serve, options.image_size)
        serve({"forward": lambda: seconds(case.forward), "both": lambda: seconds(case.both)})
        return

    gpu = torch.cuda.is_available()
    for queries in ("encoder", "1096"):
        for precision in options.precisions:
            ways = {way: (way, queries, precision) for way in (THEIRS, "plain", "triton" if gpu else "gather")}
            times, servers = take_turns(ways, ["forward", "both"], options.rounds, options.processes)
            for server in servers.values():
                server.close()
            for (way, work), measured in times.items():
                median = statistics.median(measured)
                line = {
                    "queries": queries,
                    "values": precision,
                    "work": work,
                    "way": way,
                    "ms": round(1e3 * median, 2),
                    "spread": [round(1e3 * min(measured), 2), round(1e3 * max(measured), 2)],
                    "times_faster_than_theirs": round(statistics.median(times[THEIRS, work]) / median, 2),
                }
                print(json.dumps(line), flush=True)
    machine = torch.cuda.get_device_name() if gpu else f"CPU, {options.threads} threads"
    packages = {name: version(name) for name in ("torch", "transformers")}
    print(json.dumps({"machine": machine, "python": platform.python_version(), **packages}))


if __name__ == "__main__":
    main()
