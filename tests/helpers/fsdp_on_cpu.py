"""`train.py` with FSDP2 on a CPU: torch shards there too, but accelerate switches it on for GPUs alone."""

import sys

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from dino_detr.cli import main

initialise, shard = PartialState.__init__, torch.distributed.fsdp.fully_shard


def pass_for_gpus(self, *args, **kwargs):
    initialise(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def shard_and_say_so(module, **kwargs):
    print(f"sharded: {type(module).__name__}", flush=True)
    return shard(module, **kwargs)


def allow_sharding() -> None:
    PartialState.__init__ = pass_for_gpus
    torch.distributed.fsdp.fully_shard = shard_and_say_so


if __name__ == "__main__":
    allow_sharding()
    main(["train", *sys.argv[1:]])
