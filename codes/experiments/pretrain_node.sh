#!/usr/bin/env bash
# One machine of pretrain.slurm: runs the launcher that it is given, hands SIGTERM on to it, and ends with 143 if that is why it stopped.
# torchrun itself ends with 1 then, as if it had failed.
told=0
"$@" &
child=$!
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, not the child
    wait "$child"
    status=$?
done
if [ "$status" != 0 ] && [ "$told" = 1 ]; then
    exit 143
fi
exit "$status"
