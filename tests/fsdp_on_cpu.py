"""`train.py` with FSDP2 on a CPU: torch shards there too, but accelerate switches it on for GPUs alone."""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from dino_detr.cli import main

initialise = PartialState.__init__


def pass_for_gpus(self, *args, **kwargs):
    initialise(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = pass_for_gpus
    main(["train", *sys.argv[1:]])
