#!/usr/bin/env bash
# Set everything up: a virtual environment in .venv with the packages of requirements.txt, in the versions of codes/setup/locks.
#
#     bash codes/setup.sh
#     bash codes/setup.sh --without-graph    all but torch-scatter and torch-sparse, which are compiled; a run without it adds them
#
# The first run takes about 7 minutes on two idle cores, and says how far it is and what each step usually takes; .venv/setup.log and
# .venv/compile.log have all that the tools said. After a failure the next run goes on from there; when nothing changed it takes no
# time. PYTHON=python3.12 chooses another Python.
set -euo pipefail
cd "$(dirname "$0")/.."
stop() { echo "setup: $*" >&2; exit 1; }
case "$*" in "" | --without-graph) ;; *) stop "unknown argument $*; it takes --without-graph or nothing" ;; esac

python=${PYTHON:-python3}
if [ -n "${PYTHON:-}" ] && command -v "$python" >/dev/null && [ -x .venv/bin/python ]; then
  there=$(.venv/bin/python --version 2>&1) asked=$("$python" --version)
  [ "$there" = "$asked" ] || stop ".venv is of $there, not of $asked: rm -rf .venv, and run this again"
fi

stamp=.venv/.installed
wanted=$(cat requirements.txt pyproject.toml codes/setup.sh codes/setup/*.py codes/setup/locks/*.txt | cksum)
# Where Java is, Apache Spark can be the engine: pyspark (400 MB) is installed too, and its tests run.
spark=
if command -v java >/dev/null || { [ -n "${JAVA_HOME:-}" ] && [ -x "$JAVA_HOME/bin/java" ]; }; then spark=" with Spark, as Java is here"; fi
wanted+=$spark
# A whole installation serves --without-graph, too.
for made in "$stamp" ${1:+"$stamp$1"}; do
  if [ -f "$made" ] && [ "$(cat "$made")" = "$wanted" ]; then exit 0; fi
done

command -v "$python" >/dev/null || stop "Python is missing: install Python 3.11 or newer (Debian: apt-get install python3 python3-venv python3-dev)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "$("$python" --version) is too old: install Python 3.11 or newer and run PYTHON=python3.11 bash codes/setup.sh"
if [ -z "${1:-}" ]; then
  command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || stop "a C++ compiler is missing, torch-scatter and torch-sparse need one: install g++ (Debian: apt-get install g++ python3-dev)"
  header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h
  [ -f "$header" ] || stop "Python's headers are missing, torch-scatter and torch-sparse need them: install python3-dev (Debian: apt-get install python3-dev)"
fi
"$python" -c 'import venv, ensurepip' 2>/dev/null || stop "Python's venv is missing: install python3-venv (Debian: apt-get install python3-venv)"

rm -f "$stamp" "$stamp--without-graph"
# an earlier run may have been cut off before pip was in .venv
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
.venv/bin/python codes/setup/install.py ${1:+"$1"} ${spark:+--spark}
# Threads that spin while they wait take the cores from others. Measured on two cores at a load of 2: reading the demo's
# external hospital (pretrain.py --zero-shot) took 1.3 s with passive waiting and 17.7 s without.
grep -q OMP_WAIT_POLICY .venv/bin/activate || echo 'export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"' >>.venv/bin/activate
echo "$wanted" >"$stamp${1:-}"
echo "setup: done; activate it with: source .venv/bin/activate"
