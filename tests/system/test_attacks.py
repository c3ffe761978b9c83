"""A hostile job on a persistent slot, and what must be left of it afterwards: nothing."""

from __future__ import annotations

from collections.abc import Callable

from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.world import World
from tests.system.site import Site

# Deeper than Python recurses; shared memory; a process that the runner does not find and whose name says that
# a job runs.
LEAVE = """
python3 - <<'END'
import os
os.chdir(os.environ["HOME"])
for _ in range(2500):
    os.mkdir("d")
    os.chdir("d")
END
echo mine > /dev/shm/left
cp /bin/sleep "$HOME/Runner.Worker"
(unset RUNNER_TRACKING_ID; setsid nohup "$HOME/Runner.Worker" 3600 > /dev/null 2>&1 &)
"""
# A user manager would run what a job left outside the slot's unit: none of the ways to one may be open.
REACH = """
set +e
loginctl enable-linger "$(id -un)" && echo REACHED logind
busctl --system list && echo REACHED bus
ls /run/dbus/system_bus_socket && echo REACHED socket
systemctl stop gha-runner@b.service && echo REACHED systemd
kill -9 $(pgrep -u gha-b) && echo REACHED neighbour
cat /var/lib/gha-runner/b/.runner && echo REACHED registration
echo all tried
"""


def test_a_hostile_job_stays_in_its_slot_and_goes_with_it(
    hosts: Callable[..., Host], world: World, controller: Controller
) -> None:
    """It gets no system bus and no neighbour; its slot can be removed whatever it left behind."""
    slots = [{"name": "a", "labels": ["sa"]}, {"name": "b", "labels": ["sb"]}]
    variables = {"github_runner_slots": slots, "conda_manage": False}
    site = Site([hosts()], world, controller, variables)
    site.slots()
    result, log = site.result(site.job(REACH, labels=["sa"]))
    said = [line.partition("Z ")[2] for line in log.splitlines()]
    assert result == "success", log
    assert "all tried" in said, log
    assert not [line for line in said if line.startswith("REACHED")]

    result, log = site.result(site.job(LEAVE, labels=["sa"]))
    assert result == "success", log
    uid = site.shell("id -u gha-a").strip()
    neighbour = site.record("b")
    site.variables["github_runner_slots"] = [slots[1]]
    site.slots()
    assert site.record("a") is None
    assert site.record("b") == neighbour
    assert site.shell(f"ps -o pid= -u {uid} || true").strip() == ""
    left = (
        f"find / -xdev -uid {uid} -not -path '/proc/*'; find /dev/shm -uid {uid}; ls -d /var/lib/gha-runner/a"
    )
    assert site.shell(f"({left}) 2> /dev/null || true").strip() == ""
