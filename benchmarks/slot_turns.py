"""From one job's end to the next one's start, seen from the host; what hooks took, from the jobs' logs."""

from __future__ import annotations

import json
import re
import shlex
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import requests

from tests.hosts.world import RUNNER_PATH, RUNNER_VERSION
from tests.system.site import Site

__all__ = ["Turn", "hook_seconds", "middle", "stock", "turns"]

WORKFLOW = {"workflow_ref": "acme/widgets/.github/workflows/ci.yml@refs/heads/main"}
SECONDS = 120.0
# Notes, on the host, when a process of the runner's comes and goes. Its figures are good to some 5 ms.
WATCH = """
import json, os, sys, time
known = {}
while True:
    now, seen = time.time(), {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as file:
                name = file.read().strip()
            if name in ("Runner.Listener", "Runner.Worker"):
                with open(f"/proc/{pid}/cgroup") as file:
                    group = file.read()
                seen[pid] = (name, [unit for unit in sys.argv[1:] if unit in group])
        except OSError:
            continue
    for pid in seen.keys() - known.keys():
        print(json.dumps([now, "begins", *seen[pid]]), flush=True)
    for pid in known.keys() - seen.keys():
        print(json.dumps([now, "ends", *known[pid]]), flush=True)
    known = seen
    time.sleep(0.004)
"""
FETCH = "import sys, urllib.request as r; r.urlretrieve(sys.argv[1], '/home/stock/runner.tar.gz')"
STOCK_UNIT = "bench-stock.service"
STOCK = """set -e
while [ -e /home/stock/go ]; do
  cd /home/stock
  rm -rf runner
  mkdir runner
  cd runner
  tar -xzf ../runner.tar.gz
  ./config.sh --unattended --ephemeral --disableupdate --replace --url {url} --token {token} --name stock \\
    --labels stock >/dev/null
  ./run.sh
done
"""
HOOKS = {"Set up runner": "job started", "Complete runner": "job completed"}
_STEP = re.compile(r"^(\S+) ##\[section\](Starting|Finishing): ([A-Za-z ]+?)(?: \(|$)", re.MULTILINE)


@dataclass(frozen=True)
class Turn:
    """Seconds after a job's worker ended: the next listener, its word that it listens, the next worker."""

    listener: float | None
    listening: float | None
    worker: float | None


def middle(seconds: Sequence[float | None]) -> str:
    """Median and most, of what there is."""
    found = [each for each in seconds if each is not None]
    return f"{statistics.median(found):.2f} s (most {max(found):.2f})" if found else "the same one"


def turns(site: Site, label: str, count: int, *, unit: str) -> list[Turn]:
    """So many turns of the slot that has the label, with the next job waiting each time."""
    site.shell(
        "systemctl stop bench-watch.service 2>/dev/null; systemctl reset-failed; rm -f /root/watch;"
        f" systemd-run --quiet --unit=bench-watch --property=StandardOutput=file:/root/watch"
        f" python3 -c {shlex.quote(WATCH)} {unit}"
    )
    began = time.time()
    jobs = [site.job("true", labels=["self-hosted", label], **WORKFLOW) for _ in range(count + 1)]
    for job in jobs:
        site.result(job, seconds=SECONDS)
    site.shell("systemctl stop bench-watch.service")
    return _read(site.host.read("/root/watch"), _listening(site, unit, began), unit)


def _listening(site: Site, unit: str, since: float) -> list[float]:
    """When the unit's listener said that it listens."""
    found = site.shell(f"journalctl --no-pager --output=json --unit={unit} --since=@{since:.0f}")
    lines = [json.loads(line) for line in found.splitlines() if "Listening for Jobs" in line]
    return [int(line["__REALTIME_TIMESTAMP"]) / 1e6 for line in lines]


def _read(text: str, listening: list[float], unit: str) -> list[Turn]:
    events = [json.loads(line) for line in text.splitlines()]
    mine = [(at, what, name) for at, what, name, units in events if unit in units]
    ends = [at for at, what, name in mine if (what, name) == ("ends", "Runner.Worker")]
    begins = {
        kind: [at for at, what, name in mine if (what, name) == ("begins", kind)]
        for kind in ("Runner.Listener", "Runner.Worker")
    }
    found = []
    for end, following in pairwise([*ends]):
        found.append(
            Turn(
                _first(begins["Runner.Listener"], end, following),
                _first(listening, end, following),
                _first(begins["Runner.Worker"], end, following),
            )
        )
    return found


def _first(times: list[float], after: float, before: float) -> float | None:
    fitting = [at - after for at in times if after <= at < before]
    return min(fitting) if fitting else None


def stock(site: Site, count: int) -> list[Turn]:
    """The same with the runner as it comes: for each job its directory is removed and unpacked anew."""
    archive = site.world.mirror.url + RUNNER_PATH.format(version=RUNNER_VERSION, architecture="x64")
    token = requests.post(
        f"{site.world.github.url}/api/v3{site.world.scope}/actions/runners/registration-token",
        headers={"Authorization": f"Bearer {site.world.token}"},
        timeout=30,
    ).json()["token"]
    script = STOCK.format(url=f"{site.world.github.url}/acme/widgets", token=token)
    site.shell(
        "useradd --create-home stock; touch /home/stock/go;"
        f" python3 -c {shlex.quote(FETCH)} {shlex.quote(archive)}"
    )
    site.host.put("/home/stock/loop.sh", script, mode=0o755)
    site.shell(
        f"systemd-run --quiet --unit={STOCK_UNIT} --uid=stock --property=KillMode=control-group"
        " --setenv=HOME=/home/stock bash /home/stock/loop.sh"
    )
    try:
        site.github.wait_runner(site.world.scope, "stock", seconds=60)
        return turns(site, "stock", count, unit=STOCK_UNIT)
    finally:
        site.shell(f"rm -f /home/stock/go; systemctl stop {STOCK_UNIT}; true")


def hook_seconds(site: Site, label: str, count: int) -> dict[str, list[float]]:
    """What each hook took a job, by the times in the jobs' logs."""
    found: dict[str, list[float]] = {name: [] for name in HOOKS.values()}
    jobs = [site.job("true", labels=["self-hosted", label], **WORKFLOW) for _ in range(count)]
    for job in jobs:
        _, log = site.result(job, seconds=SECONDS)
        begun: dict[str, datetime] = {}
        for at, what, step in _STEP.findall(log):
            when = datetime.fromisoformat(at[:26] + "+00:00")
            if what == "Starting":
                begun[step] = when
            elif step in HOOKS and step in begun:
                found[HOOKS[step]].append((when - begun[step]).total_seconds())
    return found
