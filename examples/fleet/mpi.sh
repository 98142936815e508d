#!/bin/sh
# One rank a share, under Open MPI, MPICH, Intel MPI or srun:
#   mpirun -n 8 sh examples/fleet/mpi.sh
# No rank talks to another: MPI only starts them. Rank 0 waits for the files of the others.
set -eu
here=$(dirname "$0")
rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-${PMIX_RANK:-${SLURM_PROCID:-}}}}
size=${OMPI_COMM_WORLD_SIZE:-${PMI_SIZE:-${FLEET_RANKS:-${SLURM_NTASKS:-}}}}
if [ -z "$rank" ] || [ -z "$size" ]; then
  echo "mpi: neither OMPI_COMM_WORLD_RANK, PMI_RANK, PMIX_RANK nor SLURM_PROCID is set" >&2
  exit 2
fi
dir=${FLEET_DIR:-fleet}
rm -f "$dir/done-$rank"
code=0
sh "$here/shard.sh" "$rank" "$size" || code=$?
mkdir -p "$dir"
echo "$code" >"$dir/done-$rank"
[ "$rank" -eq 0 ] || exit "$code"
other=1
while [ "$other" -lt "$size" ]; do
  until [ -f "$dir/done-$other" ]; do sleep 2; done
  other=$((other + 1))
done
sh "$here/merge.sh" "$size"
