#!/usr/bin/env bash
# Set everything up and run the tests:  bash tests/run.sh [pytest's arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
bash codes/setup.sh
.venv/bin/ruff check .
exec .venv/bin/python -m pytest "$@"
