#!/usr/bin/env bash
# OMOP tables to trajectories and labels, for the home hospital and those it is tested on.
#
#     bash preprocessing/run.sh                                          # mimic and ehrshot
#     HOSPITALS="mimic seoul" bash preprocessing/run.sh --memory 32GB    # others; flags go to every stage
#     ENGINE=spark bash preprocessing/run.sh                             # on Apache Spark (needs Java 17): the same tables
#
# The home hospital (cohort.home) comes first: the others use its decile edges. What is up to date is not made again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ./environment.sh

# unquoted: names are parted by spaces or line breaks
exec "$python" preprocessing/all_stages.py --hospitals ${HOSPITALS:-mimic ehrshot} "$@"
