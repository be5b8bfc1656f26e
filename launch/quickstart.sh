#!/usr/bin/env bash
# From a fresh clone to a spoken continuation: installs, trains configs/quickstart.py on synthesised voices (only packages
# are downloaded), evaluates it on unseen utterances and writes a report to listen to.
#
#     bash launch/quickstart.sh [--dry-run] [arguments of `spectron train`, such as --set stages.joint.steps=100]
#
# An interrupted run is continued, a finished one is trained again from nothing. PYTHON=… chooses the interpreter.
set -euo pipefail
DRY_RUN=""

TRAIN=()
for argument in "$@"; do
  case "$argument" in
    --dry-run) DRY_RUN=1 ;;
    -h | --help)
      sed -n '2,8s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) TRAIN+=("$argument") ;;
  esac
done
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

WORKDIR=runs/quickstart
REPORT="$WORKDIR/report.html"

ensure_environment data synth eval
if [[ -f "$REPORT" ]]; then
  say "$WORKDIR holds a finished run; removing it to train again."
  run rm -rf "$WORKDIR"
fi
run "$BIN/spectron" train configs/quickstart.py --workdir "$WORKDIR" ${TRAIN[@]+"${TRAIN[@]}"}
# The judges are kept outside the run: the next run has the same clips and need not train them again.
run "$BIN/spectron" evaluate counting --checkpoint "$WORKDIR" --out "$WORKDIR" --judges runs/judges --seeds 1 --limit 300
say "Report: $ROOT/$REPORT"
