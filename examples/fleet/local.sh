#!/bin/sh
# The Slurm array with processes of this machine: local.sh N. Shares that measure at the same time
# disturb each other; FLEET_PARALLEL=1 runs them together all the same, as a test of the recipe.
set -eu
count=$1
here=$(cd "$(dirname "$0")" && pwd)
export FLEET_HERE="$here" SLURM_ARRAY_TASK_COUNT="$count"
index=0
pids=
code=0
while [ "$index" -lt "$count" ]; do
  if [ "${FLEET_PARALLEL:-0}" = 1 ]; then
    SLURM_ARRAY_TASK_ID=$index sh "$here/slurm_array.sh" &
    pids="$pids $!"
  else
    SLURM_ARRAY_TASK_ID=$index sh "$here/slurm_array.sh" || code=$?
  fi
  index=$((index + 1))
done
for pid in $pids; do wait "$pid" || code=$?; done
# What there is is joined, as after a job array of which a task failed.
sh "$here/merge.sh" "$count" || exit $?
exit "$code"
