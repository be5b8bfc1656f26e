#!/usr/bin/env bash
# Trains on a TPU slice of Google Cloud, or several: requests it (queued resources), installs on every host, starts.
#
#     bash launch/tpu_vm.sh [--dry-run] --name NAME --zone ZONE --type TYPE [--slices N] [--runtime V] [--spot] STEP CONFIG.py --workdir DIR …
#
# STEP: create (requests the slice), train (copies this checkout, installs, starts; run it again after a preemption,
# it resumes from the newest checkpoint), or delete. TYPE and V as `gcloud compute tpus` names them (v5litepod-16; v2-alpha-tpuv5-lite).
# DIR must be a folder that all hosts see (NFS, a mounted bucket). Project and account are gcloud's own settings.
set -euo pipefail
DRY_RUN=""

NAME=""
ZONE=""
TYPE=""
SLICES=1
RUNTIME=v2-alpha-tpuv5-lite
SPOT=()
STEP=""
TRAIN=()
while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --name) NAME="${2:?--name wants a name}" && shift ;;
    --zone) ZONE="${2:?--zone wants a zone}" && shift ;;
    --type) TYPE="${2:?--type wants an accelerator type}" && shift ;;
    --slices) SLICES="${2:?--slices wants a number}" && shift ;;
    --runtime) RUNTIME="${2:?--runtime wants a version}" && shift ;;
    --spot) SPOT=(--spot) ;;
    -h | --help)
      sed -n '2,8s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    create | train | delete) if [[ -z "$STEP" ]]; then STEP="$1"; else TRAIN+=("$1"); fi ;;
    *) TRAIN+=("$1") ;;
  esac
  shift
done
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ -z "$NAME" || -z "$ZONE" || -z "$STEP" || ("$STEP" == create && -z "$TYPE") ]]; then
  say "Give --name, --zone and one of create (with --type), train or delete; --help says more."
  exit 2
fi
NODES=("$NAME")
NODE_OPTIONS=(--node-id "$NAME")
if ((SLICES > 1)); then
  NODES=()
  for ((i = 0; i < SLICES; i++)); do NODES+=("$NAME-$i"); done
  NODE_OPTIONS=(--node-count "$SLICES" --node-prefix "$NAME")
fi

on_every_host() { # NODE COMMAND
  run gcloud compute tpus tpu-vm ssh "$1" --zone "$ZONE" --worker=all --command "$2"
}

case "$STEP" in
  create)
    run gcloud compute tpus queued-resources create "$NAME" --zone "$ZONE" --accelerator-type "$TYPE" \
      --runtime-version "$RUNTIME" "${NODE_OPTIONS[@]}" ${SPOT[@]+"${SPOT[@]}"}
    ;;
  delete)
    run gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force
    ;;
  train)
    needs_training ${TRAIN[@]+"${TRAIN[@]}"}
    ARCHIVE="${TMPDIR:-/tmp}/spectron.tar.gz"
    run git archive --format=tar.gz --output="$ARCHIVE" HEAD
    printf -v COMMAND '%q ' .venv/bin/spectron train --distributed "${TRAIN[@]}"
    for node in "${NODES[@]}"; do
      run gcloud compute tpus tpu-vm scp "$ARCHIVE" "$node:spectron.tar.gz" --zone "$ZONE" --worker=all
      on_every_host "$node" "mkdir -p spectron && tar -xzf spectron.tar.gz -C spectron && cd spectron && python3 -m venv .venv && .venv/bin/pip install --quiet -c launch/constraints.txt '.[tpu,data]'"
    done
    # All slices at once: each waits for the others.
    for node in "${NODES[@]}"; do
      if ((SLICES > 1)) && [[ -z "$DRY_RUN" ]]; then
        on_every_host "$node" "cd spectron && $COMMAND" &
      else
        on_every_host "$node" "cd spectron && $COMMAND"
      fi
    done
    wait
    ;;
esac
