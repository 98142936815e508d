#!/bin/sh
#SBATCH --job-name=moejit-tune
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
# A Slurm job array, one GPU a share; a requeued task goes on from what it has packed.
#   export FLEET_DIR=/shared/fleet FLEET_MODEL=deepseek-v3 FLEET_ARGS="--tp 8 --tokens 1:8192"
#   job=$(sbatch --parsable examples/fleet/slurm_array.sh)
#   sbatch --dependency=afterany:$job --wrap "sh examples/fleet/merge.sh 8"
set -eu
# Slurm runs a copy of this file: the others are found from where the job was submitted.
here=${FLEET_HERE:-${SLURM_SUBMIT_DIR:-.}/examples/fleet}
exec sh "$here/shard.sh" "$SLURM_ARRAY_TASK_ID" "$SLURM_ARRAY_TASK_COUNT"
