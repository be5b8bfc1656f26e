#!/usr/bin/env bash
# Batch inference over a corpus on many machines: a Slurm array, a TPU slice, or processes of this machine.
#
#     bash launch/generate.sh [--dry-run] --slurm N [--sbatch "OPTIONS"] --checkpoint DIR --out DIR INPUT …
#     bash launch/generate.sh [--dry-run] --tpu NAME --zone ZONE --checkpoint DIR --out DIR INPUT …
#     bash launch/generate.sh [--dry-run] --processes N --checkpoint DIR --out DIR INPUT …
#
# What follows the options goes to `spectron generate`. Each of the N, or of the slice's hosts, takes its share of the
# inputs; run the command again to finish the share of one that was lost. All must be able to read the inputs and write
# to the output. Slurm: one GPU each, account and partition in OPTIONS, this checkout's .venv (extras cuda, eval). The
# slice must have been made by launch/tpu_vm.sh (create, then train once). --processes is for CPUs: a single process
# uses all accelerators that it sees.
set -euo pipefail
DRY_RUN=""

KIND=""
COUNT=0
NAME=""
ZONE=""
HERE="$PWD"
SBATCH=()
GENERATE=()
while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --slurm) KIND=slurm && COUNT="${2:?--slurm wants a number of tasks}" && shift ;;
    --processes) KIND=processes && COUNT="${2:?--processes wants a number}" && shift ;;
    --tpu) KIND=tpu && NAME="${2:?--tpu wants a name}" && shift ;;
    --zone) ZONE="${2:?--zone wants a zone}" && shift ;;
    --sbatch) read -r -a SBATCH <<<"${2:?--sbatch wants options in one word}" && shift ;;
    -h | --help)
      sed -n '2,13s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) GENERATE+=("$1") ;;
  esac
  shift
done
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ -z "$KIND" || ("$KIND" == tpu && -z "$ZONE") || ("$KIND" != tpu && ! "$COUNT" =~ ^[1-9][0-9]*$) ]]; then
  say "Give --slurm N, --processes N, or --tpu NAME with --zone ZONE; --help says more."
  exit 2
fi
if ((${#GENERATE[@]} == 0)); then
  say "Name a --checkpoint, an --out and inputs, as for spectron generate."
  exit 2
fi

case "$KIND" in
  slurm)
    ensure_environment cuda eval
    printf -v COMMAND '%q ' "$ROOT/$BIN/spectron" generate "${GENERATE[@]}"
    run sbatch --job-name=spectron-generate --array="0-$((COUNT - 1))" --ntasks=1 --gpus=1 --requeue \
      --open-mode=append --output=spectron-generate-%A-%a.log ${SBATCH[@]+"${SBATCH[@]}"} \
      --wrap="cd $(printf '%q' "$HERE") && ${COMMAND}--part \$SLURM_ARRAY_TASK_ID/$COUNT"
    ;;
  tpu)
    printf -v COMMAND '%q ' .venv/bin/spectron generate --distributed "${GENERATE[@]}"
    run gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "cd spectron && $COMMAND"
    ;;
  processes)
    if [[ -z "${PYTHON:-}" ]]; then
      ensure_environment eval
      PYTHON="$ROOT/$BIN/python"
    fi
    cd "$HERE"
    CHILDREN=()
    trap 'kill "${CHILDREN[@]}" 2>/dev/null || true' EXIT
    for ((i = 0; i < COUNT; i++)); do
      if [[ -n "$DRY_RUN" ]]; then
        run "$PYTHON" -m spectron generate "${GENERATE[@]}" --part "$i/$COUNT"
      else
        "$PYTHON" -m spectron generate "${GENERATE[@]}" --part "$i/$COUNT" &
        CHILDREN+=($!)
      fi
    done
    CODE=0
    for ((i = 0; i < ${#CHILDREN[@]}; i++)); do
      wait "${CHILDREN[$i]}" || {
        code=$?
        if ((CODE == 0 || CODE == 3)); then CODE=$code; fi # 3: some inputs were bad, the others are done
        say "Process $i ended with exit code $code."
      }
    done
    exit "$CODE"
    ;;
esac
