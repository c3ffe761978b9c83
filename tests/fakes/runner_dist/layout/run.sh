#!/bin/bash
# Runs the runner again for as long as it asks for that.

if [ "$(id -u)" -eq 0 ] && [ -z "$RUNNER_ALLOW_RUNASROOT" ]; then
    echo "Must not run interactively with sudo"
    exit 1
fi

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cp -f "$root/run-helper.sh.template" "$root/run-helper.sh"

run_once_more() {
    # Unquoted as in the real script: an argument with a space falls apart.
    # shellcheck disable=SC2048,SC2086
    "$root/run-helper.sh" $*
}

if [ -n "$RUNNER_MANUALLY_TRAP_SIG" ]; then
    trap 'kill -INT -- -$child' INT TERM
    set -m
fi

while :; do
    if [ -n "$RUNNER_MANUALLY_TRAP_SIG" ]; then
        run_once_more "$@" &
        child=$!
        wait "$child"
        code=$?
        while kill -0 "$child" 2>/dev/null; do
            wait "$child"
            code=$?
        done
    else
        run_once_more "$@"
        code=$?
    fi
    if [ "$code" -ne 2 ]; then
        [ "$code" -eq 7 ] || code=0
        echo "Exiting runner..."
        exit "$code"
    fi
    echo "Restarting runner..."
done
