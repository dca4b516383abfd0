#!/usr/bin/env bash
# Set everything up and run the whole road on two synthetic hospitals, on the CPU, without a download:
#
#     bash codes/demo.sh
#     bash codes/demo.sh --fresh      the same from the beginning; a second run otherwise reuses what is finished
#
#     bash codes/demo.sh --all        also every other arm and outcome, and the comparison of all of them
#     bash codes/demo.sh --real       in place of it on real patients, of data/eicu and data/mimic: demo/real.sh
#
# It says at which step of how many it is. After set-up it takes 8 to 12 minutes on two cores, --all far longer.
# Everything it makes lies under demo/ (git-ignored), laid out as the repository's own data, usedata and results.
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
steps=7 at=0
[ -z "$all" ] || steps=11
[ -z "$real" ] || steps=7
step() { at=$((at + 1)); printf '\ndemo: step %s of %s: %s\n' "$at" "$steps" "$*"; }

step "set-up, minutes the first time, and nothing if it is done"
bash setup.sh
if [ -n "$real" ]; then
  source demo/real.sh
  exit
fi
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

step "two invented hospitals, mimic and ehrshot, and their vocabulary"
"$python" demo/hospitals.py --persons "$persons"
step "preprocessing: their OMOP tables become trajectories and labels"
bash preprocessing/run.sh
step "a vector for every concept; beside it, the patient model of learned codes"
side_by_side "bash representation/run.sh --arms medrep description" "arm none"
step "the patient models of vectors, pretrained at home and tested at both hospitals; beside them, averages of vectors"
side_by_side "arm description" "finetune --model pooled --rep-type none description medrep --outcome MT" \
  "arm medrep; finetune --rep-type medrep --outcome MT --seeds 100 --extract-attention-score --set finetuning.attribution_examples=100"
if [ -n "$all" ]; then
  step "all other kinds of vectors"
  bash representation/run.sh --arms all
  step "their patient models, pretrained"
  side_by_side "pretrain random" "pretrain name" "pretrain medtok" "pretrain keep"
  step "labels of one more outcome, and every patient model trained for all four, whole and frozen"
  for hospital in mimic ehrshot; do # an onset, by a concept set as a user would bring it
    "$python" preprocessing/labels.py --hospital "$hospital" --outcome demo/lung_infection.json
  done
  vectors="random name description medrep medtok keep" outcomes="MT LLOS RA lung_infection"
  reps="none $vectors"
  side_by_side "finetune --rep-type $reps --outcome $outcomes" "finetune --rep-type $reps --outcome $outcomes --frozen"
  step "baselines, and what else an arm can be: few labels, unknown codes, augmentation, the model of the other hospital"
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
step "what the model looked at, rated by a stand-in for a language model; beside it, how much of the other hospital can be read"
side_by_side "rate mimic" "rate ehrshot" coverage
step "results: the table, the comparison and the report page"
for outcome in MT ${all:+LLOS RA}; do
  "$python" demo/table.py --outcome "$outcome"
done
"$python" experiments/compare.py
"$python" experiments/report.py
