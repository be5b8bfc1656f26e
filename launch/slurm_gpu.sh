#!/usr/bin/env bash
# Trains on GPUs under Slurm, one process a GPU. A preempted job saves, is queued again and resumes.
#
#     bash launch/slurm_gpu.sh [--dry-run] [--nodes N] [--gpus M] [--time T] [--sbatch "OPTIONS"] CONFIG.py --workdir DIR …
#
# M GPUs a node. What follows the options goes to `spectron train`; all nodes must be able to write to DIR. Account,
# partition and the like: --sbatch "--account=… --partition=…". The environment is this checkout's .venv (extras cuda, data).
set -euo pipefail
DRY_RUN=""

NODES=1
GPUS=8
TIME=24:00:00
SBATCH=()
TRAIN=()
while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --nodes) NODES="${2:?--nodes wants a number}" && shift ;;
    --gpus) GPUS="${2:?--gpus wants a number}" && shift ;;
    --time) TIME="${2:?--time wants a limit such as 24:00:00}" && shift ;;
    --sbatch) read -r -a SBATCH <<<"${2:?--sbatch wants options in one word}" && shift ;;
    -h | --help)
      sed -n '2,7s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) TRAIN+=("$1") ;;
  esac
  shift
done
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs_training ${TRAIN[@]+"${TRAIN[@]}"}
ensure_environment cuda data
printf -v COMMAND '%q ' srun --kill-on-bad-exit=1 "$ROOT/$BIN/spectron" train "${TRAIN[@]}"
# SIGTERM five minutes before the end: the processes agree on a step, save and leave; the job asks to be queued again.
run sbatch --job-name=spectron --nodes="$NODES" --ntasks-per-node="$GPUS" --gpus-per-node="$GPUS" --time="$TIME" \
  --signal=TERM@300 --requeue --open-mode=append --output=spectron-%j.log ${SBATCH[@]+"${SBATCH[@]}"} \
  --wrap="$COMMAND"
