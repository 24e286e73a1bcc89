"""
Fine-tune a detector on a COCO folder, in Python, and say what it learned of each class:

    python examples/finetune.py path/to/folder runs/mine [--option value ...]

The first argument is any data set of docs/guides/data.md, the second the run folder; further options are those of
`dino-detr train --help`. `dino-detr train recipes/finetune.yaml` does the same; here is where to step in.
"""

import sys
from pathlib import Path

from dino_detr.data import class_names
from dino_detr.training import parse_options, prepare, train

RECIPE = Path(__file__).parent.parent / "recipes" / "finetune.yaml"


def main(dataset: str, output_dir: str, *others: str) -> None:
    options = parse_options([str(RECIPE), "--dataset", dataset, "--output_dir", output_dir, *others])

    # data, read and checked; the detector, with the data's classes; a transformers.Trainer: change them here
    trainer = prepare(options)
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    print(f"{len(trainer.train_dataset)} images to train on, {len(trainer.eval_dataset)} to evaluate on")
    print(f"classes: {', '.join(class_names(trainer.eval_dataset))}; {trained:,} parameters to train")

    figures = train(trainer)  # the best weights, curves, report and card are in output_dir now
    print(f"AP {figures['AP']:.3f}, AP50 {figures['AP50']:.3f}; of each class:")
    for name, of_class in figures["per_class"].items():
        print(f"  {of_class['AP']:6.3f}  {name}")


if __name__ == "__main__":  # processes that read images import this file
    main(*sys.argv[1:])
