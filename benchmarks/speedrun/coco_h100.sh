#!/bin/bash
# To 50.0 box AP on COCO val2017, on the GPUs of one machine: bash benchmarks/speedrun/coco_h100.sh [GPUS] [--option value ...]
#
# The 12-epoch recipe (DINOv2 ViT-B, frozen, 16 images a step) with its drop of the learning rate at step 55,000 instead
# of 82,500. The reference had 50.5 AP a hundred steps after its drop; by its history some 58,000 steps should do here.
# They are 4 hours at 0.25 s a step, 2.6 at 0.16 s. It has not been run yet.
#
# COCO is in datasets/coco (annotations/, train2017/, val2017/), or elsewhere: --dataset FOLDER. The time is that from the
# first step to the evaluation that reports 50.0, evaluations left out: `seconds_per_step` of metrics.jsonl, summed up.
set -eu
cd "$(dirname "$0")/../.."
gpus="${1:-1}"
shift || true
exec accelerate launch --num_processes "$gpus" --mixed_precision no train.py recipes/coco_12ep_base.yaml \
    --output_dir runs/speedrun_coco --max_steps 58000 --lr_decay_steps 55000 \
    --eval_steps 1000 --save_steps 1000 "$@"
