"""The gradient of a run's first step: `step_gradient.py OUT.safetensors INDICES RECIPE [--option value ...]`.

INDICES (comma-separated, or `none`) are those of training samples whose boxes are taken away.
"""

import os
import sys

from safetensors.torch import save_file
from transformers import TrainerCallback

from dino_detr.training import parse_options
from dino_detr.training.run import prepare


class KeepGradient(TrainerCallback):
    def __init__(self, path, model):
        self.path, self.model = path, model

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.requires_grad}
        if state.is_world_process_zero:
            save_file({name: gradient.contiguous() for name, gradient in gradients.items()}, self.path)
        control.should_training_stop = True


if __name__ == "__main__":
    path, indices, *arguments = sys.argv[1:]
    trainer = prepare(parse_options(arguments))
    if indices != "none":
        without = {int(index) for index in indices.split(",")}
        samples = type(trainer.train_dataset)
        full = samples.__getitem__

        def emptied(self, index):
            sample = full(self, index)
            if index in without:
                sample["annotation"]["annotations"] = []
            return sample

        samples.__getitem__ = emptied
    trainer.add_callback(KeepGradient(path, trainer.model))
    trainer.train()
    # gloo's threads may still have Python objects to drop, which aborts an interpreter that is being torn down
    os._exit(0)
