#!/usr/bin/env bash
# What the commands of model.yaml call: run.py of the clone, in the environment that its codes/setup.sh made.
set -euo pipefail
clone=${MEDREP_CLONE:-}
if [ -z "$clone" ] || [ ! -f "$clone/codes/experiments/meds_dev/run.py" ]; then
    echo "MEDREP_CLONE=$clone is no clone of MedRep: export MEDREP_CLONE=FOLDER, and run bash FOLDER/codes/setup.sh once" >&2
    exit 1
fi
if [ ! -x "$clone/.venv/bin/python" ]; then
    echo "$clone/.venv is missing: bash $clone/codes/setup.sh makes it" >&2
    exit 1
fi
exec "$clone/.venv/bin/python" "$clone/codes/experiments/meds_dev/run.py" "$@"
