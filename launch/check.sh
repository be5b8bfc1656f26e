#!/usr/bin/env bash
# Run all checks of a change (format, lint, types, shell scripts, tests); fails at the end if one of them failed.
#
#     bash launch/check.sh [--dry-run] [--all] [--extras a,b] [arguments of pytest]
set -euo pipefail
DRY_RUN=""

TESTS=()
for argument in "$@"; do
  case "$argument" in
    --dry-run) DRY_RUN=1 ;;
    -h | --help)
      sed -n '2,4s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) TESTS+=("$argument") ;;
  esac
done
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

FAILED=()
check() {
  local name="$1"
  shift
  run "$@" || FAILED+=("$name")
}

ensure_environment data synth eval test dev
check "ruff format" "$BIN/python" -m ruff format --check .
check "ruff check" "$BIN/python" -m ruff check .
check "mypy" "$BIN/python" -m mypy
check "shellcheck" "$BIN/shellcheck" --external-sources launch/*.sh .ci/run
if ((${#FAILED[@]})); then
  say "Failed so far: ${FAILED[*]}"
fi
run bash launch/test.sh ${TESTS[@]+"${TESTS[@]}"}
((${#FAILED[@]} == 0))
