"""How long commands take: many runs of each, one after another in turn, so that noise meets all alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.plays import Spread
from tests.hosts.host import Host

__all__ = ["on_controller", "on_host"]

# Runs wherever a Python 3 is; reads {"runs": N, "commands": {name: argv}}, writes {name: [seconds, ...]}.
TIMER = """
import json, subprocess, sys, time
given = json.loads(sys.argv[1])
times = {name: [] for name in given["commands"]}
for turn in range(given["runs"] + 1):
    for name, argv in given["commands"].items():
        begin = time.perf_counter()
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True)
        if turn:  # the first one warms the caches
            times[name].append(time.perf_counter() - begin)
        if done.returncode > 3 or b"Traceback" in done.stderr:  # 0 to 3 are verdicts
            sys.exit(f"{name}: {done.stderr.decode()}")
print(json.dumps(times))
"""
# `runnerctl health`, except that it knows of no API to ask.
HEALTH_OFFLINE = """
import functools, sys
from runnerctl.probes import collect
collect.collect = functools.partial(collect.collect, api_urls=())
from runnerctl.cli.main import main
sys.argv = ["runnerctl", "health"]
main()
"""
HOST_BIN = "/opt/runnerctl/bin"


def on_host(host: Host, *, runs: int) -> dict[str, Spread]:
    """The CLI as a host has it."""
    # The link leads to the environment; by way of the link, Python would not know that it is in one.
    python = f"{host.exec('readlink', '-f', HOST_BIN).stdout.strip()}/python"
    commands = {
        "python": [python, "-c", "pass"],
        "help": [f"{HOST_BIN}/runnerctl", "--help"],
        "health": [f"{HOST_BIN}/runnerctl", "health"],
        "health offline": [python, "-c", HEALTH_OFFLINE],
    }
    given = json.dumps({"runs": runs, "commands": commands})
    return _spreads(host.exec("python3", "-c", TIMER, given, seconds=300).stdout)


def on_controller(*, runs: int) -> dict[str, Spread]:
    """The CLI as the controller has it."""
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "help": [str(Path(sys.executable).with_name("runnerctl")), "--help"],
    }
    given = json.dumps({"runs": runs, "commands": commands})
    done = subprocess.run(
        [sys.executable, "-c", TIMER, given], capture_output=True, text=True, timeout=300, check=True
    )
    return _spreads(done.stdout)


def _spreads(text: str) -> dict[str, Spread]:
    times: Mapping[str, list[float]] = json.loads(text)
    return {name: Spread(tuple(values)) for name, values in times.items()}
