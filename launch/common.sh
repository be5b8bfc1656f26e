#!/usr/bin/env bash
# Sourced by the other scripts: the repository's root, --dry-run, and a virtual environment with the extras asked for.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$ROOT" || exit
BIN=.venv/bin

# Runs a command, or prints it, ready to paste, where the script set DRY_RUN.
run() {
  if [[ -z "${DRY_RUN:-}" ]]; then
    "$@"
    return
  fi
  local word line=""
  for word in "$@"; do
    if [[ ! "$word" =~ ^[[:alnum:]_./=:,+@%-]+$ ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

say() { printf '%s\n' "$*" >&2; }

# needs_training ARGUMENT…: what is handed on to `spectron train`.
needs_training() {
  if (($# == 0)); then
    say "Name a config and a --workdir, as for spectron train."
    exit 2
  fi
}

suits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

# The Python to build the environment with: $PYTHON, or the first of the usual names that suits.
choose_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    if suits "$PYTHON"; then
      printf '%s\n' "$PYTHON"
      return
    fi
    say "PYTHON=$PYTHON is not a Python 3.11 or 3.12 with venv; name another."
    exit 2
  fi
  for candidate in python3.11 python3.12 python3 python; do
    if suits "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  say "There is no Python 3.11 or 3.12 with venv here; install one (and its venv package), or name it: PYTHON=/path/to/python $0"
  exit 2
}

# What an installation depends on: pins, project file, interpreter, place. A change of any of them installs again.
fingerprint() {
  {
    cat pyproject.toml launch/constraints.txt
    "$BIN/python" -VV
    printf '%s\n' "$ROOT" # a moved checkout's scripts point to the old place
  } 2>/dev/null | cksum | tr ' ' '-'
}

# ensure_environment EXTRA…: .venv holds the project and these extras, and those of earlier calls. Skipped when it does.
ensure_environment() {
  local stamp=.venv/.spectron-stamp known="" extras python loudness=(--quiet)
  if [[ -f "$stamp" && "$(head -n 1 "$stamp")" == "$(fingerprint)" ]]; then
    known="$(tail -n 1 "$stamp")"
  fi
  extras="$(printf '%s\n' "$@" "${known//,/$'\n'}" | sed '/^$/d' | sort -u | paste -s -d , -)"
  if [[ -n "$known" && "$extras" == "$known" ]]; then
    return
  fi
  say "Installing into $ROOT/.venv: $extras"
  if [[ -t 2 ]]; then
    loudness=(--progress-bar on) # on a terminal, show progress
  fi
  if [[ -z "$known" ]]; then
    python="$(choose_python)"
    run "$python" -m venv --clear .venv
    run "$BIN/python" -m pip install --quiet --upgrade "pip>=25" # the pip that comes with 3.11 takes twice as long
  fi
  # --no-compile: byte code for what is imported, when it is imported; compiling all of TensorFlow takes minutes.
  run "$BIN/python" -m pip install "${loudness[@]}" --no-compile --prefer-binary \
    --constraint launch/constraints.txt --editable ".[$extras]"
  if [[ -z "${DRY_RUN:-}" ]]; then
    printf '%s\n%s\n' "$(fingerprint)" "$extras" >"$stamp"
  fi
}
