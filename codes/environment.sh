# Sourced by the run.sh files, from codes/: `python` is .venv's, or else the python3 of an environment of the user's own.
python=python3
if [ -x ../.venv/bin/python ]; then python=../.venv/bin/python; fi
if ! "$python" -c 'import medrep' 2>/dev/null; then
    echo "run.sh: the packages are not installed for $(command -v "$python" || echo python3): bash codes/setup.sh makes .venv with them" >&2
    exit 1
fi
