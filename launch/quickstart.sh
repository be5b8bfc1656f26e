#!/usr/bin/env bash
# From a fresh clone to a spoken continuation: install, train configs/quickstart.py on synthesised voices (only packages
# are downloaded), evaluate it on test utterances, write an HTML report with the sounds, and answer three prompts.
#
#     bash launch/quickstart.sh [--dry-run] [arguments of `spectron train`, such as --set stages.joint.steps=100]
#
# An interrupted run is resumed; a finished run is deleted and trained again. PYTHON=… selects the interpreter.
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
FINISHED="$WORKDIR/finished" # written last

ensure_environment synth eval
if [[ -f "$FINISHED" ]]; then
  say "$WORKDIR contains a finished run; deleting it to train again."
  run rm -rf "$WORKDIR"
fi
run "$BIN/spectron" train configs/quickstart.py --workdir "$WORKDIR" ${TRAIN[@]+"${TRAIN[@]}"}
# The judges are kept outside the run: the next run evaluates the same clips and need not train them again.
run "$BIN/spectron" evaluate counting --checkpoint "$WORKDIR" --out "$WORKDIR" --judges runs/judges --seeds 1 \
  --limit 120 --write-prompts "$WORKDIR/prompts"
run "$BIN/spectron" generate --checkpoint "$WORKDIR" --out "$WORKDIR/answers" "$WORKDIR/prompts"
run touch "$FINISHED"
say "
Open the report in a browser: $ROOT/$REPORT
Its three prompts are in $WORKDIR/prompts, their answers in $WORKDIR/answers. Next:

  . .venv/bin/activate
  spectron generate --checkpoint $WORKDIR --out out $WORKDIR/prompts/*.wav     # or a recording of your own, up to 1.8 s
  spectron runs $WORKDIR                                                      # what was trained
  spectron export --checkpoint $WORKDIR --out exported                        # weights, config and README in one folder
  less configs/quickstart.py                                                  # the recipe"
