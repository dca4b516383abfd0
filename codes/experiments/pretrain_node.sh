#!/usr/bin/env bash
# One machine of pretrain.slurm: runs the launcher that it is given, and hands SIGTERM on to it. Ends with
#
#     0      if that does
#     143    told by SIGTERM to stop, its processes have done so, with a checkpoint or before there was anything to save
#     200    anything else. srun ends with the highest status: where one machine fails, the others, which srun then stops, must not hide it
#
# torchrun itself ends with 1 in both cases. The first process that fails on its own writes its exit status to MEDREP_FAILED (medrep/devices.py).
told=0
scratch=$(mktemp -d)
export MEDREP_FAILED="$scratch/failed"
"$@" &
child=$!
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, not the child
    wait "$child"
    status=$?
done
failed=$(cat "$MEDREP_FAILED" 2>/dev/null || echo 143) # none of its own: SIGTERM ended them
rm -rf "$scratch"
if [ "$status" = 0 ]; then
    exit 0
elif [ "$told" = 1 ] && [ "$failed" = 143 ]; then
    exit 143
fi
exit 200
