#!/usr/bin/env bash
# From the hospitals' vocabularies to a vector for every concept, the control arms, and what each is worth.
#
#     bash representation/run.sh                                            # from anywhere
#     bash representation/run.sh --scope all                                # not only the hospitals' concepts: concepts.py
#     bash representation/run.sh --writer openai --concurrency 32           # definitions by a language model: definitions.py
#     bash representation/run.sh --writer openai --dry-run --price 0.15,0.6 # ends there, as does --batch
#     bash representation/run.sh --encoder FOLDER                           # a Hugging Face model that lies in FOLDER
#     bash representation/run.sh --arms medrep description                  # these alone; all: medtok and keep, too
#     bash representation/run.sh --gpu-devices 0 1 2 3 --pooling mean       # encoder.py and description.py on four GPUs, graph.py, medtok.py and keep.py on the first
#     bash representation/run.sh --memory 32GB --set graph.epochs=50        # other flags go to every stage
#
# Published concept_idx.csv and concept_representation_*.npy in usedata/representation are used as they are. What is up
# to date is not made again.
set -euo pipefail
export MEDREP_CALLED_FROM=$PWD # relative paths are meant from there
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ./environment.sh

# Threads that spin while they wait take the cores from others. Measured on two cores at a load of 3: an epoch of the
# demo's encoder takes 16 s with spinning, 5 s without.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

exec "$python" representation/all_stages.py "$@"
