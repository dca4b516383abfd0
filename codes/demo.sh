#!/usr/bin/env bash
# Set everything up and run the whole road on two synthetic hospitals, on the CPU, without a download:
#
#     bash codes/demo.sh
#     bash codes/demo.sh --fresh      the same from the beginning; a second run otherwise reuses what is finished
#
#     bash codes/demo.sh --all        also every other arm and outcome, and the comparison of all of them
#
# After set-up it takes 7 to 10 minutes on two cores, --all less than an hour. Everything it makes lies under demo/
# (git-ignored), laid out as the repository's own data, usedata and results.
# PERSONS=1000 changes how many persons each hospital has.
set -euo pipefail
cd "$(dirname "$0")"
persons=${PERSONS:-2000}
all=
for argument in "$@"; do
  case "$argument" in
    --all) all=1 ;;
    --fresh) # what lies in demo/data and is not ours makes the generator stop, and nothing of it goes
      export MEDREP_FRESH=1
      rm -rf ../demo/usedata ../demo/results ;;
    *) echo "demo.sh: unknown argument $argument; it takes --all, --fresh or nothing" >&2; exit 1 ;;
  esac
done
bash setup.sh
python=../.venv/bin/python
export MEDREP_ROOT=demo MEDREP_CONFIGS=configs/demo HF_HUB_OFFLINE=1
export OMP_WAIT_POLICY=passive # threads that wait for work leave the cores to others

"$python" demo/hospitals.py --persons "$persons"
bash preprocessing/run.sh
bash representation/run.sh
pretrain() { "$python" experiments/pretrain.py --model behrt --rep-type "$1" --gpu-devices cpu; }
finetune() { "$python" experiments/finetune.py -d cpu "$@"; }
for rep in none description medrep; do
  pretrain "$rep"
done
finetune --model behrt --rep-type none description medrep --outcome MT
finetune --model behrt --rep-type medrep --outcome MT --seeds 100 --extract-attention-score --set finetuning.attribution_examples=100
"$python" experiments/vocabulary_coverage.py --external ehrshot
if [ -n "$all" ]; then
  for rep in random name medtok; do
    pretrain "$rep"
  done
  every=(none random name description medrep medtok)
  for hospital in mimic ehrshot; do # an onset, by a concept set as a user would bring it
    "$python" preprocessing/labels.py --hospital "$hospital" --outcome demo/lung_infection.json
  done
  outcomes=(MT LLOS RA lung_infection)
  finetune --model behrt --rep-type "${every[@]}" --outcome "${outcomes[@]}"
  finetune --model behrt --rep-type "${every[@]}" --outcome "${outcomes[@]}" --frozen
  finetune --model logreg --outcome "${outcomes[@]}"
  finetune --model gbm --outcome "${outcomes[@]}"
  finetune --model behrt --rep-type none --outcome "${outcomes[@]}" --oov unk ancestor
  finetune --model behrt --rep-type none medrep --outcome MT --oracle --recalibrate 100
  finetune --model behrt --rep-type none medrep --outcome MT --shots 16
  finetune --model behrt --rep-type description medrep --outcome MT --aug-times 2
  finetune --model behrt --rep-type medrep --outcome MT --extract-attention-score
  "$python" experiments/vocabulary_coverage.py --external ehrshot
fi
for hospital in mimic ehrshot; do # a stand-in for experiments/medgemma.py's language model, which would have to be downloaded
  "$python" demo/physician.py --rep medrep --outcome MT --seed 100 --ex "$hospital"
done
"$python" demo/table.py --outcome MT
"$python" experiments/compare.py
"$python" experiments/report.py
