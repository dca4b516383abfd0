#!/usr/bin/env bash
# Set everything up and run the checks and the tests:
#
#     bash tests/run.sh                   everything, a process a core
#     bash tests/run.sh --quick           a few minutes: what one runs while editing
#     bash tests/run.sh tests/medrep -x   pytest's own arguments
set -euo pipefail
cd "$(dirname "$0")/.."
bash codes/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
PYTHONPATH=codes .venv/bin/lint-imports --no-logo --no-cache
# Types are checked on one core while the others test; what pyright finds stands at the end.
types=$(mktemp)
trap 'rm -f "$types"' EXIT
.venv/bin/pyright > "$types" &
pyright=$!
failed=0
# in the order of tests/conftest.py: the slowest files first
.venv/bin/python -m pytest -n "${WORKERS:-auto}" --dist loadfile --no-loadscope-reorder "$@" || failed=$?
wait "$pyright" || failed=1
cat "$types"
exit "$failed"
