#!/usr/bin/env bash
# Set everything up and run the whole road on two synthetic hospitals, on the CPU, without a download:
#
#     bash codes/demo.sh
#     bash codes/demo.sh --fresh      the same from the beginning; a second run otherwise reuses what is finished
#
#     bash codes/demo.sh --all        also every other arm and outcome, and the comparison of all of them
#     bash codes/demo.sh --real       in place of it on real patients, of data/eicu and data/mimic: demo/real.sh
#
# After set-up it takes 8 to 9 minutes on two cores, --all far longer. Everything it makes lies under demo/
# (git-ignored), laid out as the repository's own data, usedata and results.
# PERSONS=1000 changes how many persons each hospital has.
set -euo pipefail
cd "$(dirname "$0")"
persons=${PERSONS:-2000}
all= real=
for argument in "$@"; do
  case "$argument" in
    --all) all=1 ;;
    --real) real=1 ;;
    --fresh) # what lies in demo/data and is not ours makes the generator stop, and nothing of it goes
      export MEDREP_FRESH=1
      rm -rf ../demo/usedata ../demo/results ../demo/real ;;
    *) echo "demo.sh: unknown argument $argument; it takes --all, --real, --fresh or nothing" >&2; exit 1 ;;
  esac
done
bash setup.sh
[ -z "$real" ] || exec bash demo/real.sh
python=../.venv/bin/python
export MEDREP_ROOT=demo MEDREP_CONFIGS=configs/demo HF_HUB_OFFLINE=1
export OMP_WAIT_POLICY=passive # threads that wait for work leave the cores to others

# One thread each, two at a time: models as small as these gain little from a second thread.
export OMP_NUM_THREADS=1

export python
pretrain() { "$python" experiments/pretrain.py --model behrt --rep-type "$1" --gpu-devices cpu; }
finetune() { "$python" experiments/finetune.py -d cpu "$@"; }
arm() { pretrain "$1"; finetune --model behrt --rep-type "$1" --outcome MT; }
coverage() { "$python" experiments/vocabulary_coverage.py --external ehrshot; }
# a stand-in for experiments/medgemma.py's language model, which would have to be downloaded
rate() { "$python" demo/physician.py --rep medrep --outcome MT --seed 100 --ex "$1"; }
export -f pretrain finetune arm coverage rate
side_by_side() { # each argument is some shell commands
  printf '%s\0' "$@" | xargs -0 -n 1 -P 2 bash -euo pipefail -c 'eval "$0" 2>&1 | stdbuf -oL tr "\r" "\n"'
}

"$python" demo/hospitals.py --persons "$persons"
bash preprocessing/run.sh
side_by_side "bash representation/run.sh --arms medrep description" "arm none"
side_by_side "arm description" "finetune --model pooled --rep-type none description medrep --outcome MT" \
  "arm medrep; finetune --rep-type medrep --outcome MT --seeds 100 --extract-attention-score --set finetuning.attribution_examples=100"
if [ -n "$all" ]; then
  bash representation/run.sh --arms all
  side_by_side "pretrain random" "pretrain name" "pretrain medtok" "pretrain keep"
  for hospital in mimic ehrshot; do # an onset, by a concept set as a user would bring it
    "$python" preprocessing/labels.py --hospital "$hospital" --outcome demo/lung_infection.json
  done
  vectors="random name description medrep medtok keep" outcomes="MT LLOS RA lung_infection"
  reps="none $vectors"
  side_by_side "finetune --rep-type $reps --outcome $outcomes" "finetune --rep-type $reps --outcome $outcomes --frozen"
  # a run that two commands test is not theirs at the same time
  side_by_side "finetune --model logreg --outcome $outcomes; finetune --model gbm --outcome $outcomes" \
    "finetune --model pooled --rep-type $reps --outcome $outcomes; finetune --model pooled-gbm --rep-type $reps --outcome $outcomes
     finetune --model pooled --rep-type medrep --outcome MT --oracle --recalibrate 100; finetune --model pooled --rep-type medrep --outcome MT --shots 16" \
    "finetune --rep-type none --outcome $outcomes --oov unk ancestor
     finetune --rep-type none medrep --outcome MT --oracle --recalibrate 100
     finetune --rep-type none medrep --outcome MT --shots 16
     finetune --rep-type description medrep --outcome MT --aug-times 2
     finetune --rep-type medrep --outcome MT --extract-attention-score"
fi
side_by_side "rate mimic" "rate ehrshot" coverage
for outcome in MT ${all:+LLOS RA}; do
  "$python" demo/table.py --outcome "$outcome"
done
"$python" experiments/compare.py
"$python" experiments/report.py
