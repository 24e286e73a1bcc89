"""Whether the ways of deformable sampling give the same: python benchmarks/sampling_agreement.py

Values and gradients of each way in each precision, beside the plain definition in float64. A way is right if it is at
most twice as far from that as the plain way in its own precision is. One line of JSON for each; the exit status is 1 if
one is wrong.
"""

import argparse
import json
import sys

import torch

from dino_detr.deformable_attention import deformable_sampling

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RESULTS = ("output", "values' gradient", "locations' gradient", "weights' gradient")


def sample(way: str, inputs: list[torch.Tensor], shapes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Return what `RESULTS` names, in float64."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    output = deformable_sampling(inputs[0], shapes, inputs[1], inputs[2], way)
    torch.manual_seed(1)
    output.backward(torch.randn(output.shape).to(output))
    return [tensor.double() for tensor in (output.detach(), *(tensor.grad for tensor in inputs))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, nargs=2, default=[800, 1333], metavar=("H", "W"))
    parser.add_argument("--queries", type=int, default=1100)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    shapes = [tuple(side // stride for side in options.image_size) for stride in (8, 16, 32, 64)]
    value = torch.randn(2, sum(h * w for h, w in shapes), 8, 32)
    locations = torch.rand(2, options.queries, 8, 4, 4, 2) * 1.2 - 0.1  # some of them outside
    weights = torch.randn(2, options.queries, 8, 16).softmax(-1).view(2, options.queries, 8, 4, 4)
    exact_inputs = [tensor.to(device).double() for tensor in (value, locations, weights)]
    all_right = True
    for precision, dtype in DTYPES.items():
        inputs = [exact_inputs[0].to(dtype), *(tensor.float() for tensor in exact_inputs[1:])]
        exact = sample("plain", [tensor.double() for tensor in inputs], shapes)
        plain = sample("plain", inputs, shapes)
        for way in ("triton",) if device == "cuda" else ("gather",):
            ours = sample(way, inputs, shapes)
            errors = {}
            for name, one, definition, truth in zip(RESULTS, ours, plain, exact):
                scale = truth.abs().mean()
                errors[name] = [((x - truth).abs().mean() / scale).item() for x in (one, definition)]
            right = all(error <= 2 * of_plain + 1e-7 for error, of_plain in errors.values())
            all_right &= right
            print(json.dumps({"way": way, "values": precision, "right": right, "error_and_plains": errors}), flush=True)
    sys.exit(0 if all_right else 1)


if __name__ == "__main__":
    main()
