"""
Train a detector, as `dino-detr train` does, in one process or several:

    accelerate launch train.py recipes/coco_12ep_base.yaml [--option value ...]
"""

import sys

from dino_detr.cli.train import endings_in_a_line, faults_in_a_line, parse

if __name__ == "__main__":  # processes that read images import this file
    with faults_in_a_line():
        from dino_detr.training import prepare, train

        options = parse(sys.argv[1:])  # those of the recipe, and of the command line
        trainer = prepare(options)  # a transformers.Trainer with data and model, both checked
    with endings_in_a_line():
        train(trainer)  # leaves the best weights, curves, report and card in output_dir
