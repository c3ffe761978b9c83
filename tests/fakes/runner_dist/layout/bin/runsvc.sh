#!/bin/bash
# Starts the listener with the PATH of the moment of configuration.

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
if [ -f "$root/.path" ]; then
    PATH=$(cat "$root/.path")
    export PATH
fi
trap 'kill -INT $child' TERM INT
"$root/bin/Runner.Listener" run --startuptype service &
child=$!
wait "$child"
wait "$child"
