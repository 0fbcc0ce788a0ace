#!/usr/bin/env bash
#SBATCH --job-name=jaxpt
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
# Train on GPUs of one or many nodes: one process per GPU; a run that the time limit stops is queued again and goes on.
set -euo pipefail

usage() {
  cat <<'TXT'
sbatch [options of sbatch] launch/slurm.sh [ARGUMENTS OF jaxpt train]

  sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=12 --time=24:00:00 \
    launch/slurm.sh --config=configs/tiny.py:/shared/packed/web --workdir=/shared/runs/a

Submit it in the checkout. Every node must see the checkout, the sources and --workdir under the same path.
Five minutes before the time limit SLURM sends SIGTERM: the run saves, exits with 75, and the job is queued again.
A process that is killed, stopped or cut off is named by the others, in the job's log, within config.sharding.lost_after
seconds (120): all end, with 75, and the job is queued again and goes on from the newest checkpoint. One that ends with an
error ends all, and the job is not queued: mend what its output says, then submit the same command.

  JAXPT=COMMAND     default .venv/bin/jaxpt; for instance "apptainer exec --nv jaxpt.sif jaxpt"
  REQUEUE=0         do not queue again
TXT
}

fail() { echo "launch/slurm.sh: $1" >&2; exit 2; }

case "${1:-}" in
  -h | --help | "") usage; exit 0 ;;
esac
[ -n "${SLURM_JOB_ID:-}" ] || fail "SLURM_JOB_ID is not set; submit it: sbatch launch/slurm.sh ARGUMENTS"
read -ra jaxpt <<<"${JAXPT:-.venv/bin/jaxpt}"
command -v "${jaxpt[0]}" >/dev/null || fail "there is no ${jaxpt[0]}; submit it in the checkout, or set JAXPT"

# a compiled step is used again by the next start of the job
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}

# every process ends by itself once one is lost; SLURM would kill the others before they have said so
code=0
srun --kill-on-bad-exit=0 --wait=600 "${jaxpt[@]}" train --coordinator=auto "$@" || code=$?
if [ "$code" = 75 ] && [ "${REQUEUE:-1}" = 1 ]; then
  echo "launch/slurm.sh: stopped (saved, or a process was lost: see above); job $SLURM_JOB_ID is queued again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
