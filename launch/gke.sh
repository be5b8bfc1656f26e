#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster through XPK, which writes the JobSet; several slices are one job.
#
#     bash launch/gke.sh [--dry-run] --cluster NAME --zone ZONE --type TYPE --image IMAGE [--slices N] [--name JOB] CONFIG.py --workdir DIR …
#
# IMAGE is built from launch/Dockerfile and pushed to where the cluster pulls from. TYPE as XPK names it (v5litepod-256).
# What follows goes to `spectron train`; DIR is in a bucket. A preempted slice is started again and resumes.
set -euo pipefail
DRY_RUN=""

CLUSTER=""
ZONE=""
TYPE=""
IMAGE=""
SLICES=1
NAME=spectron
TRAIN=()
while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --cluster) CLUSTER="${2:?--cluster wants a name}" && shift ;;
    --zone) ZONE="${2:?--zone wants a zone}" && shift ;;
    --type) TYPE="${2:?--type wants a TPU type}" && shift ;;
    --image) IMAGE="${2:?--image wants an image}" && shift ;;
    --slices) SLICES="${2:?--slices wants a number}" && shift ;;
    --name) NAME="${2:?--name wants a name}" && shift ;;
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

if [[ -z "$CLUSTER" || -z "$ZONE" || -z "$TYPE" || -z "$IMAGE" ]] || ((${#TRAIN[@]} == 0)); then
  say "Give --cluster, --zone, --type, --image, a config and a --workdir; --help says more."
  exit 2
fi
printf -v COMMAND '%q ' spectron train --distributed "${TRAIN[@]}"
run xpk workload create --workload "$NAME" --cluster "$CLUSTER" --zone "$ZONE" --tpu-type "$TYPE" --num-slices "$SLICES" \
  --docker-image "$IMAGE" --max-restarts 100 --command "$COMMAND"
