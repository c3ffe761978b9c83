"""10,000 runners: what `runnerctl list` costs against `gh api --paginate`, on one stand-in in one run.

Each client is a process of its own, in turn, so that noise meets all alike. The stand-in renders a page once
and then serves it from memory: what it takes itself is measured and shown. It speaks TLS, since `gh` refuses
anything else; its authority goes to both through ``SSL_CERT_FILE``.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.report import table
from tests.fakes.github_api import GithubApi
from tests.fakes.github_api.site import Site
from tests.fakes.github_api.wire import Answer, Request
from tests.fakes.proxy import Authority

__all__ = ["run"]

RUNNERS = 10_000
RUNS = 7
SCOPE = "/orgs/acme"
TOKEN = "ghp_benchmarklist0000000000000000000"
SECONDS = 300.0
_LAUNCH = """
import os, sys, time
begin = time.monotonic()
child = os.fork()
if not child:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(child, 0)
print(time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Cost:
    """One process: wall and CPU seconds, peak of resident memory, requests, CPU seconds of the stand-in."""

    wall: float
    cpu: float
    peak_mib: float
    calls: int
    served: float


class _Memory(Site):
    """The stand-in's inside; serves a page from memory once it was rendered, and counts requests."""

    def __init__(self, inner: Site) -> None:
        self.__dict__.update(inner.__dict__)
        self._pages: dict[tuple[str, ...], Answer] = {}
        self.calls = 0

    def handle(self, request: Request) -> Answer:
        """One request."""
        self.calls += 1
        condition = request.header("if-none-match")
        key = (request.method, request.path, request.origin, condition, *map(str, request.query.items()))
        if key not in self._pages:
            answer = super().handle(request)
            if answer.body is not None:
                answer.raw = msgspec.json.encode(answer.body)
            self._pages[key] = answer
        return self._pages[key]


def run(*, quick: bool) -> list[str]:
    """Measure; Markdown blocks."""
    count, runs = (500, 2) if quick else (RUNNERS, RUNS)
    with tempfile.TemporaryDirectory(prefix="rb-list-") as name, GithubApi() as plain:
        folder = Path(name)
        plain.control.add_token(TOKEN)
        plain.control.settings(rate_limit=10_000_000)
        labels = ["gpu", "gpu-a100", "gpu-a100-80gb", "cuda12", "driver-570"]
        plain.control.add_runners(SCOPE, count, labels=labels, status="online", version="2.336.0")
        authority = Authority(folder)
        github = GithubApi(tls=authority.context("127.0.0.1"))
        github.site = memory = _Memory(plain.site)
        with github:
            costs = _measure(_clients(github, folder, authority.path), memory, runs)
    return _blocks(costs, count)


def _clients(
    github: GithubApi, folder: Path, bundle: Path
) -> dict[str, tuple[Sequence[str], Mapping[str, str]]]:
    """What is compared: command line and environment, by name."""
    base = {"PATH": os.environ["PATH"], "HOME": str(folder), "SSL_CERT_FILE": str(bundle), "LANG": "C.UTF-8"}
    own = {**base, "GH_TOKEN": TOKEN}
    listing = [sys.executable, "-m", "runnerctl", "list", "--url", f"https://127.0.0.1:{github.port}/acme"]
    listing += ["-o", "json"]
    found: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
        "`runnerctl list -o json`, nothing kept": (listing, {**own, "RUNNERCTL_CACHE_DIR": "off"}),
        "`runnerctl list -o json`, nothing changed since": (
            listing,
            {**own, "RUNNERCTL_CACHE_DIR": str(folder / "cache")},
        ),
    }
    if gh := shutil.which("gh"):
        asked = [gh, "api", "--paginate", "-X", "GET", "orgs/acme/actions/runners", "-f", "per_page=100"]
        host = f"127.0.0.1:{github.port}"
        private = {"GH_HOST": host, "GH_ENTERPRISE_TOKEN": TOKEN, "GH_CONFIG_DIR": str(folder / "gh")}
        found["`gh api --paginate`"] = (asked, {**base, **private, "GH_NO_UPDATE_NOTIFIER": "1"})
    return found


def _measure(
    clients: Mapping[str, tuple[Sequence[str], Mapping[str, str]]], memory: _Memory, runs: int
) -> dict[str, list[Cost]]:
    """All clients in turn; the first turn warms pages and caches and does not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in clients}
    for turn in range(runs + 1):
        for name, (command, environment) in clients.items():
            cost = _run(command, environment, memory)
            print(f"{cost.wall:6.2f} s {cost.peak_mib:6.0f} MiB  {name}", file=sys.stderr, flush=True)
            if turn:
                costs[name].append(cost)
    return costs


def _run(command: Sequence[str], environment: Mapping[str, str], memory: _Memory) -> Cost:
    """One process to its end. Raises RuntimeError with its last words when it fails.

    A small process starts it: a child's peak of memory begins with what its parent had.
    """
    memory.calls = 0
    with tempfile.TemporaryFile() as log:
        served = time.process_time()
        done = subprocess.run(
            [sys.executable, "-S", "-c", _LAUNCH, *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=SECONDS,
            check=False,
        )
        log.seek(0)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.returncode}: {log.read()[-2000:]!r}")
    wall, cpu, peak = map(float, done.stdout.split())
    return Cost(wall, cpu, peak / 1024, memory.calls, time.process_time() - served)


def _blocks(costs: Mapping[str, Sequence[Cost]], count: int) -> list[str]:
    head = (
        "client",
        "wall: median (least)",
        "CPU",
        "peak memory",
        "API calls",
        "CPU of the stand-in",
    )
    rows = [head]
    for name, given in costs.items():
        wall = [cost.wall for cost in given]
        rows.append(
            (
                name,
                f"{statistics.median(wall):.2f} s ({min(wall):.2f})",
                f"{statistics.median(cost.cpu for cost in given):.2f} s",
                f"{statistics.median(cost.peak_mib for cost in given):.0f} MiB",
                str(given[-1].calls),
                f"{statistics.median(cost.served for cost in given):.2f} s",
            )
        )
    runs = len(next(iter(costs.values())))
    text = f"{count} runners with eight labels each; {runs} runs of each client in turn; TLS on one machine."
    if len(costs) < 3:
        text += " `gh` is not installed here."
    return [text, table(rows)]
