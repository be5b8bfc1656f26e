#!/usr/bin/env bash
# Functions for the other scripts: --dry-run, and a virtual environment with the requested extras. Changes to the root.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$ROOT" || exit
BIN=.venv/bin

# run COMMAND…: run a command; with DRY_RUN set, print it instead, quoted for a shell.
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

# say WORD…: print a message on stderr.
say() { printf '%s\n' "$*" >&2; }

# needs_training ARGUMENT…: exit with a message if there are no arguments for `spectron train`.
needs_training() {
  if (($# == 0)); then
    say "Give a config and --workdir, as for spectron train."
    exit 2
  fi
}

# suits PYTHON: whether the interpreter can create the environment.
suits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

# Print the interpreter for the environment: $PYTHON, or the first suitable one of the usual names.
choose_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    if suits "$PYTHON"; then
      printf '%s\n' "$PYTHON"
      return
    fi
    say "PYTHON=$PYTHON is not Python 3.11 or 3.12 with venv; give another interpreter."
    exit 2
  fi
  for candidate in python3.11 python3.12 python3 python; do
    if suits "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  say "Python 3.11 or 3.12 with venv was not found; install it (and its venv package), or give its path: PYTHON=/path/to/python $0"
  exit 2
}

# A checksum of what the installation depends on: pins, project file, interpreter. A change triggers an installation.
fingerprint() {
  {
    cat pyproject.toml launch/constraints.txt
    "$BIN/python" -VV
    printf '%s\n' "$ROOT" # the scripts of the environment contain this path
  } 2>/dev/null | cksum | tr ' ' '-'
}

# ensure_environment EXTRA…: install the project into .venv with these extras and those of earlier calls, if missing.
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
    loudness=(--progress-bar on)
  fi
  if [[ -z "$known" ]]; then
    python="$(choose_python)"
    run "$python" -m venv --clear .venv
    run "$BIN/python" -m pip install --quiet --upgrade "pip>=25" # the pip of Python 3.11 takes twice as long
  fi
  # --no-compile: modules are compiled when they are imported; compiling all of TensorFlow takes minutes.
  run "$BIN/python" -m pip install "${loudness[@]}" --no-compile --prefer-binary \
    --constraint launch/constraints.txt --editable ".[$extras]"
  # Bytecode of what most commands import: without it, as where PYTHONDONTWRITEBYTECODE is set, each would compile the
  # same modules for seconds.
  run env -u PYTHONDONTWRITEBYTECODE "$BIN/python" -c "import spectron.training.loop, spectron.inference.batch_job"
  if [[ -z "${DRY_RUN:-}" ]]; then
    printf '%s\n%s\n' "$(fingerprint)" "$extras" >"$stamp"
  fi
}
