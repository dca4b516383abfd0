#!/usr/bin/env bash
# Set everything up and run the whole road on two synthetic hospitals, on the CPU, without a download:
#
#     bash codes/demo.sh
#     bash codes/demo.sh --fresh      the same from the beginning; a second run otherwise reuses what is finished
#
# After set-up it takes 7 to 10 minutes on two cores. Everything it makes lies under demo/ (git-ignored), laid out
# as the repository's own data, usedata and results.
# PERSONS=1000 changes how many persons each hospital has.
set -euo pipefail
cd "$(dirname "$0")"
persons=${PERSONS:-2000}
case "${1:-}" in
  "") ;;
  --fresh) # what lies in demo/data and is not ours makes the generator stop, and nothing of it goes
    export MEDREP_FRESH=1
    rm -rf ../demo/usedata ../demo/results ;;
  *) echo "demo.sh: unknown argument $1; it takes --fresh or nothing" >&2; exit 1 ;;
esac
bash setup.sh
python=../.venv/bin/python
export MEDREP_ROOT=demo MEDREP_CONFIGS=configs/demo HF_HUB_OFFLINE=1
export OMP_WAIT_POLICY=passive # threads that wait for work leave the cores to others

"$python" demo/hospitals.py --persons "$persons"
bash preprocessing/run.sh
bash representation/run.sh
for rep in none description medrep; do
  "$python" experiments/pretrain.py --model behrt --rep-type "$rep" --gpu-devices cpu
  "$python" experiments/finetune.py -d cpu --model behrt --rep-type "$rep" --outcome MT
done
"$python" demo/table.py --outcome MT
