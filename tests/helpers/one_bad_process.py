"""
A run of two processes, DDP or FSDP2, of which the second meets an overflow at its second step:
`one_bad_process.py RECIPE ...`.
"""

import os
import sys

import torch

from dino_detr.cli.train import endings_in_a_line
from dino_detr.training import parse_options, prepare, train
from helpers.fsdp_on_cpu import allow_sharding

MODULE = "model.encoder.layers.0.ffn.fc2"


def overflow(trainer) -> None:
    def hook(module, args, output):
        if trainer.state.global_step == 1 and trainer.args.process_index == 1:
            return torch.where(output == output.max(), torch.inf, output)
        return output

    trainer.model.get_submodule(MODULE).register_forward_hook(hook)


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        allow_sharding()
    trainer = prepare(parse_options(sys.argv[1:]))
    overflow(trainer)
    with endings_in_a_line():
        train(trainer)
