"""Behind a job: what it leaves is gone, its disk is its own, and `clean` keeps within its budgets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

SLOTS: list[dict[str, Any]] = [{"name": "a", "labels": ["one"]}, {"name": "b", "labels": ["two"]}]
ROOT = "/var/lib/gha-runner/a"
LABELS = ["self-hosted", "linux", "x64"]


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with two slots, each with a disk of one GiB; it may use this machine's loop devices."""
    controller = Controller(Path(tmp_path_factory.mktemp("clean")), lab.keys)
    host = module_hosts()
    nodes = "mknod /dev/loop-control c 10 237; for n in $(seq 0 31); do mknod /dev/loop$n b 7 $n; done; true"
    host.exec("sh", "-c", f"{nodes} 2>/dev/null")
    variables = {
        "github_runner_slots": SLOTS,
        "github_runner_disk_per_slot_gib": 1,
        "github_runner_packages": ["e2fsprogs", "procps"],
    }
    made = Site([host], module_world, controller, variables)
    made.provision()
    yield made
    made.shell("systemctl stop 'gha-runner@*'; umount /var/lib/gha-runner/*; true")
    assert module_world.control.violations() == []


LEAVE = f"""
(unset RUNNER_TRACKING_ID; setsid sleep 600 >/dev/null 2>&1 &)
(setsid sh -c 'sleep 600 & exec sleep 600' >/dev/null 2>&1 &)
echo leave > /tmp/leave; echo leave > /var/tmp/leave; echo leave > /dev/shm/leave; echo leave > $HOME/.profile
ipcmk -M 1000; ipcmk -Q; ipcmk -S 1
mkdir -p {ROOT}/_work/_tool/node {ROOT}/_work/other/other; echo poison > {ROOT}/_work/_tool/node/node
ln -s /etc {ROOT}/_work/etc; echo leave > {ROOT}/_diag/Worker_20200101-000000-utc.log
echo left
"""
LOOK = f"""
id -u; for each in /tmp/leave /var/tmp/leave /dev/shm/leave $HOME/.profile {ROOT}/_work/_tool/node \
  {ROOT}/_work/other {ROOT}/_work/etc {ROOT}/_diag/Worker_20200101-000000-utc.log; do
  if [ -e $each ]; then echo "FOUND: $each"; fi
done
if pgrep -u $(id -u) sleep; then echo "FOUND: processes"; fi
if [ "$(cat /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem | wc -l)" != 3 ]; then echo "FOUND: IPC"; fi
echo looked
"""


def _run(site: Site, script: str, label: str = "one", **fields: Any) -> tuple[str, str]:
    result, log = site.result(site.job(script, labels=[*LABELS, label], **fields), seconds=90)
    if result != "success":
        log += site.shell("journalctl --no-pager -n 60 -u runnerctl-guard -u gha-runner@a")
    return result, log


def test_the_next_job_sees_nothing_of_the_one_before(site: Site) -> None:
    """On a persistent slot, whose listener stays; root alone has the log."""
    pid = site.shell("systemctl show -P MainPID gha-runner@a.service")
    result, log = _run(site, LEAVE)
    assert (result, "left" in log) == ("success", True), log
    result, log = _run(site, LOOK)
    assert (result, "looked" in log) == ("success", True), log
    assert not [line for line in log.splitlines() if "FOUND:" in line and "echo" not in line], log
    assert site.shell("systemctl show -P MainPID gha-runner@a.service") == pid
    assert "Worker_20200101" in site.shell("ls /var/lib/runnerctl/logs/a")
    assert site.shell("stat -c %a:%u /var/lib/runnerctl/logs/a").strip() == "700:0"


def test_a_job_that_fills_its_disk_fills_nobody_elses(site: Site) -> None:
    """Work, home and /tmp are one file system of the slot's own; the neighbour and the host have room."""
    before = int(site.shell("df --output=avail -k / | tail -1"))
    fill = "dd if=/dev/zero of=$HOME/big bs=1M count=1200; dd if=/dev/zero of=/tmp/big bs=1M count=8"
    result, log = _run(site, f"set +e; ({fill}; rm $HOME/big) 2>&1; echo filled")
    assert result == "success", log
    assert log.count("No space left on device") >= 2, log
    result, log = _run(site, "dd if=/dev/zero of=$HOME/big bs=1M count=100 2>&1 && echo room", "two")
    assert "Z room" in log, log
    result, log = _run(site, "dd if=/dev/zero of=$HOME/big bs=1M count=100 2>&1 && echo room")
    assert "Z room" in log, log  # what the first one wrote has gone
    assert before - int(site.shell("df --output=avail -k / | tail -1")) < 1500 * 1024


def test_the_second_run_changes_nothing_and_a_disk_grows(site: Site) -> None:
    """Nothing is mounted twice; a larger number is a larger disk, the registration the same."""
    assert site.slots().recap[site.host.name].changed == 0
    site.variables["github_runner_disk_per_slot_gib"] = 2
    record = (site.record("a") or {})["id"]
    assert "disk of slot a grows to 2 GiB" in " ".join(site.actions(site.slots()))
    assert int(site.shell(f"df --output=size -m {ROOT} | tail -1")) > 1500
    assert (site.record("a") or {})["id"] == record


def test_clean_keeps_the_budget_and_leaves_a_running_job_alone(site: Site) -> None:
    """What was put aside and what root left goes; a slot with a job waits for its end."""
    assert "active" in site.shell("systemctl is-active runnerctl-clean.timer")
    site.shell(f"mkdir -p {ROOT}/home/left /var/lib/gha-runner/b/home/left")
    job = site.job("sleep 12", labels=[*LABELS, "two"])
    site.shell("for n in $(seq 60); do pgrep -u gha-b Runner.Worker && break; sleep 0.5; done")
    said = json.loads(site.shell("runnerctl clean -o json"))
    assert [each["name"] for each in said["removed"] if each["kind"] == "leftover"] == ["home/left"]
    assert [each["slot"] for each in said["skipped"]] == ["b"]
    assert site.result(job)[0] == "success"
    assert "nothing to remove" in site.shell("sleep 3; runnerctl clean; runnerctl clean")
