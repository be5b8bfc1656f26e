#!/usr/bin/env bash
# A pod simulated on this machine: processes that communicate like its hosts (gloo, localhost), with simulated devices.
#
#     bash launch/simulated_pod.sh [--dry-run] [--processes N] [--devices M] [--port P] [--logs DIR] CONFIG.py --workdir DIR …
#
# What follows the options goes to `spectron train`. Process 0 writes to the terminal, process i to DIR/process-i.log
# (default: ./pod-logs). Ends with the exit code of the first process that failed. PYTHON=… chooses the interpreter.
set -euo pipefail
DRY_RUN=""

PROCESSES=2
DEVICES=4
PORT=8476
LOGS="$PWD/pod-logs"
HERE="$PWD"
TRAIN=()
while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --processes) PROCESSES="${2:?--processes wants a number}" && shift ;;
    --devices) DEVICES="${2:?--devices wants a number}" && shift ;;
    --port) PORT="${2:?--port wants a number}" && shift ;;
    --logs) LOGS="$(realpath -m "${2:?--logs wants a folder}")" && shift ;;
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
if [[ -z "${PYTHON:-}" ]]; then
  ensure_environment data synth
  PYTHON="$ROOT/$BIN/python"
fi
cd "$HERE"
run mkdir -p "$LOGS"

export JAX_PLATFORMS=cpu JAX_COORDINATOR_ADDRESS="localhost:$PORT" JAX_NUM_PROCESSES="$PROCESSES"
# NPROC: threads of XLA. Collectives wait in them, and several devices can need more than there are cores.
export XLA_FLAGS="--xla_force_host_platform_device_count=$DEVICES" NPROC="$((4 * DEVICES))"
CHILDREN=()
trap 'kill "${CHILDREN[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < PROCESSES; i++)); do
  if [[ -n "$DRY_RUN" ]]; then
    printf 'JAX_PLATFORMS=cpu JAX_COORDINATOR_ADDRESS=%s JAX_NUM_PROCESSES=%s JAX_PROCESS_ID=%s XLA_FLAGS=%s NPROC=%s ' \
      "$JAX_COORDINATOR_ADDRESS" "$PROCESSES" "$i" "$XLA_FLAGS" "$NPROC"
    run "$PYTHON" -m spectron train "${TRAIN[@]}"
  elif ((i == 0)); then
    JAX_PROCESS_ID=$i "$PYTHON" -m spectron train "${TRAIN[@]}" &
    CHILDREN+=($!)
  else
    JAX_PROCESS_ID=$i "$PYTHON" -m spectron train "${TRAIN[@]}" >"$LOGS/process-$i.log" 2>&1 &
    CHILDREN+=($!)
  fi
done
CODE=0
for ((i = 0; i < ${#CHILDREN[@]}; i++)); do
  wait "${CHILDREN[$i]}" || { code=$? && ((CODE)) || CODE=$code; say "Process $i ended with exit code $code."; }
done
exit "$CODE"
