# shellcheck shell=bash
# Where dino-detr is: edit for your cluster. Sourced by the sbatch files, in the folder they are submitted from.
# module load cuda
if [ -f .venv/bin/activate ]; then
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
