#!/usr/bin/env bash
# Set everything up: a virtual environment in .venv with the packages of requirements.txt.
#
#     bash codes/setup.sh
#
# The first run takes about 20 minutes on two cores (torch-scatter and torch-sparse are compiled, then kept in
# pip's cache); when nothing changed it takes no time. PYTHON=python3.12 chooses another Python.
set -euo pipefail
cd "$(dirname "$0")/.."
stop() { echo "setup: $*" >&2; exit 1; }

stamp=.venv/.installed
wanted=$(cat requirements.txt pyproject.toml codes/setup.sh | cksum)
# Where Java is, Apache Spark can be the engine: pyspark (400 MB) is installed too, and its tests run.
spark=
if command -v java >/dev/null || { [ -n "${JAVA_HOME:-}" ] && [ -x "$JAVA_HOME/bin/java" ]; }; then spark=" with Spark, as Java is here"; fi
wanted+=$spark
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

python=${PYTHON:-python3}
command -v "$python" >/dev/null || stop "Python is missing: install Python 3.11 or newer (Debian: apt-get install python3 python3-venv python3-dev)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "$("$python" --version) is too old: install Python 3.11 or newer and run PYTHON=python3.11 bash codes/setup.sh"
command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || stop "a C++ compiler is missing, torch-scatter and torch-sparse need one: install g++ (Debian: apt-get install g++ python3-dev)"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h
[ -f "$header" ] || stop "Python's headers are missing, torch-scatter and torch-sparse need them: install python3-dev (Debian: apt-get install python3-dev)"
"$python" -c 'import venv, ensurepip' 2>/dev/null || stop "Python's venv is missing: install python3-venv (Debian: apt-get install python3-venv)"

echo "setup: installing into .venv$spark (the first time about 20 minutes; torch-scatter and torch-sparse are compiled)"
rm -f "$stamp"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# torch first, and no build isolation: torch-scatter and torch-sparse compile against this very torch.
pip install -q "$(grep -E '^torch==' requirements.txt)" setuptools wheel ninja
pip install -q --no-build-isolation -r requirements.txt
if [ -n "$spark" ]; then pip install -q --no-build-isolation -e ".[spark]"; fi
# Threads that spin while they wait take the cores from others. Measured on two cores at a load of 2: reading the demo's
# external hospital (pretrain.py --zero-shot) took 1.3 s with passive waiting and 17.7 s without.
grep -q OMP_WAIT_POLICY .venv/bin/activate || echo 'export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"' >>.venv/bin/activate
echo "$wanted" >"$stamp"
echo "setup: done; activate it with: source .venv/bin/activate"
