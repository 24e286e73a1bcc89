# shellcheck shell=bash
# One task per GPU runs train.py; a run that a signal stopped (status 75) is queued again. Arguments: as of train.py.

# The signals are for the tasks; this shell stays to queue the job again.
trap : TERM USR1

if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
    MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"
    WORLD_SIZE="$SLURM_NTASKS"
    export MASTER_ADDR MASTER_PORT WORLD_SIZE
    # Tasks that stop at a signal all end with status 75, one after the other; where one crashed, the others would wait.
    # shellcheck disable=SC2016  # each task knows its own rank
    srun --kill-on-bad-exit=0 --wait=300 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python train.py "$@"' train "$@"
else
    srun python train.py "$@"
fi
status=$?

if [ "$status" -eq 75 ]; then
    echo "Stopped by a signal with everything saved: job $SLURM_JOB_ID is queued again."
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
