"""Root's guard on a real host: who is admitted, what a refused job can still do, and what is told of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.sick_host import RESET, UUIDS, ail, heal, sick_host
from tests.system.site import Site

SERVICE = "runnerctl-guard.service"
FORK = {
    "pull_request": {
        "head": {"repo": {"full_name": "mallory/widgets"}},
        "base": {"repo": {"full_name": "acme/widgets"}},
    }
}


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with two GPUs, a slot for each and one without."""
    yield from sick_host(lab, module_world, module_hosts, tmp_path_factory.mktemp("guard"))


def run(site: Site, script: str, **fields: Any) -> tuple[str, str]:
    """A job on slot a: its result and its log."""
    return site.result(site.job(script, labels=["first"], **fields))


def eventually(what: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait until it comes true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def row(site: Site, *, slot: str = "a") -> dict[str, Any]:
    """The last job of a slot in the host's own database, once it has ended."""
    code = (
        "import sqlite3,json,sys; c=sqlite3.connect('/var/lib/runnerctl/jobs.db'); c.row_factory=sqlite3.Row;"
        f"r=c.execute(\"select * from jobs where slot='{slot}' order by number desc limit 1\").fetchone();"
        "print(json.dumps(dict(r) if r else {}))"
    )
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.clear()
        found.update(json.loads(site.host.exec("python3", "-c", code).stdout))
        return found.get("ended_at") is not None and (found["result"] or found["refused"]) is not None

    eventually(ended)
    return found


def test_a_job_is_admitted_and_told_where_it_runs(site: Site) -> None:
    """The set-up step names slot, GPU, driver and CUDA; the end of the log what the GPU did."""
    result, log = run(site, "echo worked; nvidia-smi -L || :")
    assert result == "success", log
    assert "slot a (persistent), runnerctl" in log
    assert "1 x NVIDIA" in log
    assert "CUDA" in log
    assert "worked" in log
    found = row(site)
    assert (found["repository"], found["result"]) == ("acme/widgets", "Succeeded")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_name": "pull_request", "event": FORK}, "no jobs of pull requests from forks"),
        ({"env": {"LD_PRELOAD": "libm.so.6"}}, "LD_PRELOAD is set for the whole job"),
        ({"env": {"BASH_ENV": "/dev/null"}}, "BASH_ENV is set for the whole job"),
    ],
)
def test_a_refused_job_fails_readably_and_runs_nothing(
    site: Site, fields: dict[str, Any], reason: str
) -> None:
    """Not even steps that say `if: always()` run to their end."""
    steps = [{"name": "late", "run": "sleep 3; touch ~/it-ran", "if": "always()"}]
    job = site.github.add_job(labels=["first"], steps=steps, repository="acme/widgets", **fields)
    result, log = site.result(job)
    assert result in ("failure", "failed"), log
    assert reason in log
    assert not site.host.exists("/var/lib/gha-runner/a/home/it-ran")
    assert reason in row(site)["refused"]


def test_a_repository_that_is_not_listed_is_refused(site: Site) -> None:
    """By name, as the policy has it; the guard reads a changed spec by itself."""
    path = "/etc/runnerctl/host.json"
    before = site.host.read(path)
    spec = json.loads(before)
    spec["github_runner"]["policy_repositories"] = ["acme/gadgets"]
    site.host.put(path, json.dumps(spec))
    time.sleep(2)
    try:
        result, log = run(site, "echo never")
    finally:
        site.host.put(path, before)
        time.sleep(2)
    assert result in ("failure", "failed"), log
    assert "takes no jobs of repository acme/widgets" in log


def test_a_shell_that_runs_before_the_hook_is_ended(site: Site) -> None:
    """What BASH_ENV starts in the hook's place does not live for long."""
    site.shell("printf 'sleep 60\\n' >/usr/local/share/env; chmod 644 /usr/local/share/env")
    started = time.monotonic()
    result, log = run(site, "echo never", env={"BASH_ENV": "/usr/local/share/env"})
    assert result in ("failure", "failed", "cancelled"), log
    assert time.monotonic() - started < 30
    assert row(site)["refused"]


def test_a_sick_gpu_fails_a_job_at_once_and_holds_its_slot(site: Site) -> None:
    """Between two rounds of the health timer the guard's own look is what there is."""
    ail(site, 0, RESET)
    site.shell(f"systemctl restart {SERVICE}")  # the stand-in library reads its scenario once a process
    result, log = run(site, "echo never")
    assert result in ("failure", "failed"), log
    assert f"a GPU of this slot is sick: {UUIDS[0]}" in log
    eventually(lambda: site.host.exists("/var/lib/runnerctl/hold/a"))
    heal(site)
    site.shell(f"systemctl restart {SERVICE}; runnerctl resume a --force")


def test_a_guard_that_is_killed_goes_on_with_the_job(site: Site) -> None:
    """The job does not notice, and is written down with its result."""
    go = "/var/lib/gha-runner/a/home/go"
    job = site.job(f"while [ ! -e {go} ]; do sleep 0.1; done; echo survived", labels=["first"])
    site.github.wait_job(job, status="in_progress")
    eventually(lambda: site.shell("ls /run/runnerctl/guard || :").startswith("a."))
    time.sleep(2)
    site.shell(f"systemctl kill --signal=KILL {SERVICE}")
    eventually(lambda: site.shell(f"systemctl is-active {SERVICE} || :").strip() == "active")
    site.shell(f"touch {go}")
    result, log = site.result(job)
    assert result == "success", log
    assert row(site)["result"] == "Succeeded"


def test_without_its_guard_a_host_takes_no_jobs(site: Site) -> None:
    """The reason stands in the job's log, and the host's own verdict names it."""
    site.shell(f"systemctl stop runnerctl-guard.socket {SERVICE}")
    result, log = run(site, "echo never")
    assert result in ("failure", "failed"), log
    assert "the guard of this host does not answer" in log
    site.provision("--tags", "runnerctl")
    assert run(site, "echo again")[0] == "success"


def test_the_hook_costs_little(site: Site) -> None:
    """From its start to its end on a healthy GPU; the median of five."""
    times = []
    for _ in range(5):
        _, log = run(site, "echo worked")
        stamps = {
            word: line.split(" ", 1)[0]
            for line in log.splitlines()
            for word in ("Starting: Set up runner", "Finishing: Set up runner")
            if word in line
        }
        begin, end = (stamps[f"{word}: Set up runner"] for word in ("Starting", "Finishing"))
        times.append(_seconds(end) - _seconds(begin))
    print("hook seconds:", sorted(times))
    assert sorted(times)[2] < 2.0


def _seconds(stamp: str) -> float:
    hours, minutes, seconds = stamp.rstrip("Z").partition("T")[2].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
