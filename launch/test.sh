#!/usr/bin/env bash
# Run the tests on all cores.
#
#     bash launch/test.sh [--dry-run] [--all] [--extras a,b] [arguments of pytest]
#
# --all includes the tests marked slow (several processes, the TPU compiler: minutes each), as continuous integration
# does. --extras installs optional dependencies (parity: PyTorch, beam, hf, …); tests that need a missing one are
# skipped. PYTHON=… selects the interpreter.
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
      IFS=, read -r -a more <<<"${2:?--extras needs a list such as parity,beam}"
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
# Not xdist's "auto", which counts all cores of the machine, also those that this process may not use.
CORES="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
run "$BIN/python" -m pytest -n "$CORES" --dist worksteal ${CHOICE[@]+"${CHOICE[@]}"} ${PYTEST[@]+"${PYTEST[@]}"}
