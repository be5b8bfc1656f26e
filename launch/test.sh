#!/usr/bin/env bash
# The tests, on every core.
#
#     bash launch/test.sh [--dry-run] [--all] [--extras a,b] [arguments of pytest]
#
# --all runs those marked slow too (pods of processes, a TPU's compiler: minutes each), as continuous integration does.
# --extras adds parts of the project to the environment (parity: PyTorch, beam, hf, serve, …): tests that need one of them
# are skipped without it. PYTHON=… chooses the interpreter.
set -euo pipefail
DRY_RUN=""

EXTRAS=(data synth eval test)
CHOICE=(-m "not slow")
PYTEST=()
while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --all) CHOICE=() ;;
    --extras)
      IFS=, read -r -a more <<<"${2:?--extras wants a list such as parity,beam}"
      EXTRAS+=("${more[@]}")
      shift
      ;;
    -h | --help)
      sed -n '2,8s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) PYTEST+=("$1") ;;
  esac
  shift
done
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ensure_environment "${EXTRAS[@]}"
# As many processes as this one may use cores: xdist's own count sees the machine's.
CORES="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
run "$BIN/python" -m pytest -n "$CORES" --dist worksteal ${CHOICE[@]+"${CHOICE[@]}"} ${PYTEST[@]+"${PYTEST[@]}"}
