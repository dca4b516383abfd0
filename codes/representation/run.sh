#!/usr/bin/env bash
# From the hospitals' vocabularies to a vector for every concept.
#
#     bash representation/run.sh                                            # from anywhere
#     bash representation/run.sh --encoder FOLDER                           # a Hugging Face model that lies in FOLDER
#     bash representation/run.sh --memory 32GB --set graph.epochs=50        # other flags go to every stage
#
# Published concept_idx.csv and concept_representation_*.npy in usedata/representation are used as they are. What is up
# to date is not made again.
set -euo pipefail
folder=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ./environment.sh

# Threads that spin while they wait take the cores from others. Measured on two cores at a load of 3: an epoch of the
# demo's encoder takes 16 s with spinning, 5 s without.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

writer=() encoder=() others=()
while [ $# -gt 0 ]; do
    case "$1" in
        --writer) writer=("$@"); writer=("${writer[@]:0:2}"); shift ;;
        --writer=*) writer=("$1") ;;
        --encoder|--encoder=*)
            if [ "$1" = --encoder ]; then path=${2:-}; shift; else path=${1#--encoder=}; fi
            # a relative folder is meant from where the command was given
            if [ -d "$folder/$path" ] && [ "${path:0:1}" != / ]; then path=$folder/$path; fi
            encoder=(--encoder "$path") ;;
        *) others+=("$1") ;;
    esac
    if [ $# -gt 0 ]; then shift; fi
done

"$python" representation/concepts.py "${others[@]}"
"$python" representation/definitions.py "${writer[@]}" "${others[@]}"
"$python" representation/encoder.py "${encoder[@]}" "${others[@]}"
for stage in description edges graph; do
    "$python" "representation/$stage.py" "${others[@]}"
done
