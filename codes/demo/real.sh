#!/usr/bin/env bash
# Real patients that anyone can have: the eICU demo as home and the MIMIC-IV demo as the hospital it is tested at, the same the other way round,
# and the West of eICU as home to its other regions.
#
#     bash codes/demo.sh --real       sources this file, in codes/
#
# Reads data/eicu, data/mimic and data/concepts, or these folders of $REAL_DATA. Each pair lies in a folder of its own below demo/real, laid out
# as data, usedata and results are; the vectors are made once, of all pairs' concepts. What is up to date is not made again.
source ./environment.sh
data=$(realpath -m "${REAL_DATA:-../data}")
missing=
for folder in eicu mimic concepts; do
  if [ ! -d "$data/$folder" ]; then
    case "$folder" in
      concepts) how="download.py athena says where the vocabulary comes from" ;;
      *) how="python preprocessing/download.py $folder-demo brings it" ;;
    esac
    echo "demo.sh --real: data/$folder is missing: $how" >&2
    missing=1
  fi
done
[ -z "$missing" ] || exit 1
export MEDREP_CONFIGS=configs/demo-real HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive
place=demo/real
pairs=("eicu mimic" "mimic eicu" "eicu_west eicu_rest")

root_of() { echo "$place/$1_to_$2"; }
in_pair() { # home, external, command: with the pair's folder as root
  local home=$1 external=$2
  shift 2
  MEDREP_ROOT=$(root_of "$home" "$external") "$@" --set "cohort.home=$home"
}
link() { # target, name: a link that is there already stays
  mkdir -p "$(dirname "$2")"
  [ -L "$2" ] || ln -s "$1" "$2"
}

vectors=../$place/vectors
link "$data" "$vectors/data"
for pair in "${pairs[@]}"; do
  read -r home external <<< "$pair"
  root=$(root_of "$home" "$external")
  link "$data" "../$root/data"
  step "preprocessing of $home as home and $external as the hospital it is tested at"
  HOSPITALS="$pair" in_pair $pair bash preprocessing/run.sh
  for hospital in $pair; do
    link "../../$(basename "$root")/usedata/$hospital" "$vectors/usedata/${hospital}_of_$(basename "$root")"
  done
  link ../../vectors/usedata/representation "../$root/usedata/representation"
done
step "a vector for every concept of all pairs"
MEDREP_ROOT=$place/vectors bash representation/run.sh

# One thread each, two pairs at a time: models as small as these gain little from a second thread.
export OMP_NUM_THREADS=1

learn() { # home, external
  local external=$2 finetune
  finetune=("$python" experiments/finetune.py -d cpu --external "$external" --outcome MT LLOS)
  in_pair "$@" "$python" experiments/vocabulary_coverage.py --external "$external"
  for model in logreg gbm; do
    in_pair "$@" "${finetune[@]}" --model "$model"
  done
  in_pair "$@" "${finetune[@]}" --model pooled --rep-type none random name description medrep
  for rep in none description medrep; do
    in_pair "$@" "$python" experiments/pretrain.py --model behrt --rep-type "$rep" --gpu-devices cpu
    in_pair "$@" "${finetune[@]}" --model behrt --rep-type "$rep" $([ "$rep" != none ] || echo --oov unk ancestor)
  done
}
step "the models of each pair, trained at home and tested at both hospitals"
export python place
export -f root_of in_pair learn
printf '%s\0' "${pairs[@]}" | xargs -0 -n 1 -P 2 bash -euo pipefail -c 'learn $0 2>&1 | stdbuf -oL tr "\r" "\n"'

step "results of each pair: the comparison, with APACHE, and the report page"
for pair in "${pairs[@]}"; do
  read -r home external <<< "$pair"
  scores=()
  for hospital in $pair; do
    case "$hospital" in
      eicu*)
        in_pair $pair "$python" preprocessing/apache.py --hospital "$hospital"
        scores+=("../$(root_of $pair)/usedata/$hospital/apache_scores.parquet") ;;
    esac
  done
  MEDREP_ROOT=$(root_of $pair) "$python" experiments/compare.py --against "pooled medrep" --reference "${scores[@]}"
  in_pair $pair "$python" experiments/report.py --set "finetuning.external=[$external]"
done
