#!/usr/bin/env bash
# From the hospitals' vocabularies to a vector for every concept, the control arms, and what each is worth.
#
#     bash representation/run.sh                                            # from anywhere
#     bash representation/run.sh --scope all                                # not only the hospitals' concepts: concepts.py
#     bash representation/run.sh --writer openai --concurrency 32           # definitions by a language model: definitions.py
#     bash representation/run.sh --writer openai --dry-run --price 0.15,0.6 # ends there, as does --batch
#     bash representation/run.sh --encoder FOLDER                           # a Hugging Face model that lies in FOLDER
#     bash representation/run.sh --arms medrep description                  # of medrep, description, medtok, random and name these alone
#     bash representation/run.sh --gpu-devices 0 1 2 3 --pooling mean       # encoder.py and description.py on four GPUs, graph.py and medtok.py on the first
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

from_here() { # a relative path is meant from where the command was given
    if [ -e "$folder/$1" ] && [ "${1:0:1}" != / ]; then echo "$folder/$1"; else echo "$1"; fi
}

scope=() writer=() encoder=() devices=() pooling=() others=() ends_early=
known_arms=" medrep description medtok random name "
arms=$known_arms
while [ $# -gt 0 ]; do
    case "$1" in
        --scope) scope=("${@:1:2}"); shift ;;
        --scope=*) scope=("$1") ;;
        --writer|--model|--concurrency|--fill-failed|--price) writer+=("${@:1:2}"); shift ;;
        --writer=*|--model=*|--concurrency=*|--fill-failed=*|--price=*|--decile-calls) writer+=("$1") ;;
        --batch|--dry-run) writer+=("$1"); ends_early=1 ;;
        --batch-results)
            writer+=("$1")
            while [ $# -gt 1 ] && [ "${2:0:2}" != -- ]; do writer+=("$(from_here "$2")"); shift; done ;;
        --encoder) encoder=(--encoder "$(from_here "${2:-}")"); shift ;;
        --encoder=*) encoder=(--encoder "$(from_here "${1#--encoder=}")") ;;
        --gpu-devices)
            devices=("$1")
            while [ $# -gt 1 ] && [ "${2:0:2}" != -- ]; do devices+=("$2"); shift; done ;;
        --arms)
            arms=" "
            while [ $# -gt 1 ] && [ "${2:0:2}" != -- ]; do
                if [[ "$known_arms" != *" $2 "* ]]; then echo "run.sh: --arms $2 is unknown; known are$known_arms" >&2; exit 1; fi
                arms+="$2 "
                shift
            done ;;
        --pooling) pooling=("${@:1:2}"); shift ;;
        --pooling=*) pooling=("$1") ;;
        *) others+=("$1") ;;
    esac
    if [ $# -gt 0 ]; then shift; fi
done

wanted() { [[ "$arms" == *" $1 "* ]]; }

"$python" representation/concepts.py "${scope[@]}" "${others[@]}"
"$python" representation/definitions.py "${writer[@]}" "${others[@]}"
if [ -n "$ends_early" ]; then exit 0; fi # the model is not asked here, so there may be no definitions yet
"$python" representation/encoder.py "${encoder[@]}" "${devices[@]}" "${others[@]}"
"$python" representation/description.py "${devices[@]}" "${pooling[@]}" "${others[@]}"
"$python" representation/edges.py "${others[@]}"
if wanted medrep; then "$python" representation/graph.py "${devices[@]}" "${others[@]}"; fi
if wanted medtok; then "$python" representation/medtok.py "${devices[@]}" "${others[@]}"; fi
if wanted random; then "$python" representation/random_vectors.py --unless-published "${others[@]}"; fi
if wanted name; then "$python" representation/description.py --text name "${devices[@]}" "${pooling[@]}" "${others[@]}"; fi
"$python" representation/evaluate.py --unless-published "${others[@]}"
