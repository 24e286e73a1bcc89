"""accelerate launch train.py recipes/coco_12ep_base.yaml [--option value ...]"""

import sys

from dino_detr.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
