"""An upgrade on a real host: jobs go on, bad releases go back, and a run that was killed is carried on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.runner_dist.archive import write
from tests.fakes.runner_dist.build import sha256
from tests.hosts.controller import Controller, Outcome, Run
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

SLOTS: list[dict[str, Any]] = [{"name": "a", "labels": ["left"]}, {"name": "b", "labels": ["right"]}]
OLD, GOOD, BROKEN, NEXT, TAMPERED = "2.336.0", "2.337.0", "2.338.0", "2.339.0", "2.340.0"
QUIET = ("-e", "upgrade_quiet_seconds=2")
HOLD = "upgrade to x\n\nby: upgrade\nsince: \nreason: upgrade to x\n"
END = "/var/lib/gha-runner/a/home/end"
TASK = "Bring the runners of the host to the release"


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """One host with two slots on the old release."""
    controller = Controller(Path(tmp_path_factory.mktemp("upgrade")), lab.keys)
    variables = {"github_runner_slots": SLOTS, "conda_manage": False, "runnerctl_fleet_max_held_percent": 100}
    built = Site([module_hosts()], module_world, controller, variables)
    built.provision("--tags", "runnerctl,github_runner")
    yield built
    assert module_world.control.violations() == []


def upgrade(site: Site, *options: str) -> Outcome:
    """Play the upgrade to its end."""
    return site.play("playbooks/upgrade.yml", *QUIET, *options)


def slots(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """What the play says of each slot."""
    return {each["slot"]: each for each in outcome.result(TASK).data["slots"]}


def is_well(site: Site, version: str) -> None:
    """Both slots: online with the release, their own labels, no hold, nothing left to go back to."""
    for slot, label in (("a", "left"), ("b", "right")):
        record = site.record(slot) or {}
        assert (record.get("status"), record.get("version")) == ("online", version), (slot, record)
        assert site.custom_labels(slot) == {label}
    assert site.shell("ls /var/lib/runnerctl/hold 2>/dev/null || true") == ""
    assert not site.host.exists("/var/lib/runnerctl/previous-release.json")


def start_job(site: Site) -> int:
    """A job on slot a that lasts until `end_job`."""
    site.shell(f"rm -f {END}")
    job = site.job(f"until [ -e {END} ]; do sleep 0.2; done; echo survived", labels=["left"])
    site.github.wait_job(job, status="in_progress")
    return job


def end_job(site: Site, job: int) -> None:
    """Let it end; nobody may have ended it before."""
    site.shell(f"touch {END}")
    result, log = site.result(job)
    assert (result, "survived" in log) == ("success", True), log


def wait_for_line(run: Run, text: str, *, seconds: float = 120.0) -> None:
    """Wait until the play has printed this."""
    deadline = time.monotonic() + seconds
    while text not in run.output.read_text(errors="replace"):
        assert time.monotonic() < deadline and run.process.poll() is None, run.output.read_text()
        time.sleep(0.05)


def publish_broken(site: Site, version: str) -> None:
    """A release whose listener connects, says that it listens, and ends with 7; its checksums are right."""
    made = site.world.mirror.add_runner(version)
    with tarfile.open(made.file) as archive:
        files = {
            member.name.removeprefix("./"): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive.getmembers()
            if member.isfile()
        }
    listener = files["bin/Runner.Listener"].decode()
    fault = 'os.environ["GHA_STAND_IN_FAULT"] = "exit7:1"\n\nsys.path.insert'
    files["bin/Runner.Listener"] = listener.replace("sys.path.insert", fault, 1).encode()
    with made.file.open("wb") as raw:
        write(raw, files)
    asset = {"sha256": sha256(made.file), "download_url": made.url}
    site.github.release(version, architectures={"x64": asset})


def test_check_mode_prints_the_plan_and_writes_nothing(site: Site) -> None:
    """What each slot runs, where it would go, and how long what it runs still works."""
    site.world.publish(GOOD)
    site.github.release(OLD, runtime_deprecates_at="2999-01-01T00:00:00Z", downloads=False)
    site.github.clear_requests()
    outcome = upgrade(site, "--check")
    assert outcome.rc == 0, outcome.output
    rows = slots(outcome)
    assert {(row["was"], row["now"], row["result"]) for row in rows.values()} == {
        (OLD, GOOD, "would upgrade")
    }
    assert all(row["days_left"] > 300_000 for row in rows.values())
    assert site.github.counts()[1] == 0
    assert GOOD not in site.shell("ls /opt/actions-runner")


def test_the_command_shows_the_same_plan(site: Site) -> None:
    """`runnerctl upgrade --check` on the controller, as JSON."""
    words = ["upgrade", "-i", str(site.controller.inventory), "--canary", site.host.name, "--check"]
    environment = {**os.environ, **site.world.environment(), "COLUMNS": "80"}
    command = [sys.executable, "-m", "runnerctl", *words, "-o", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    assert host["target"] == GOOD
    planned = {(each["slot"], each["from"], each["to"]) for each in host["slots"]}
    assert planned == {("a", OLD, GOOD), ("b", OLD, GOOD)}


def test_a_job_survives_the_upgrade_and_both_slots_end_on_the_new_release(site: Site) -> None:
    """The idle slot goes first; the other one waits for its job. The second run changes nothing."""
    job = start_job(site)
    run = site.start("playbooks/upgrade.yml", *QUIET)
    wait_for_line(run, "slot a is cut from routing")
    time.sleep(5)
    end_job(site, job)
    outcome = run.wait()
    assert outcome.rc == 0, outcome.output
    assert {row["result"] for row in slots(outcome).values()} == {"upgraded"}
    is_well(site, GOOD)
    again = upgrade(site)
    assert again.recap[site.host.name].changed == 0, again.output
    assert site.slots().recap[site.host.name].changed == 0


def test_a_job_that_lasts_keeps_its_slot_as_it_is(site: Site) -> None:
    """After the timeout the slot is given back, routed and on its release; the other one is upgraded."""
    job = start_job(site)
    site.world.publish(NEXT)
    outcome = upgrade(site, "-e", "upgrade_timeout_seconds=4")
    assert outcome.rc == 0, outcome.output
    assert {name: row["result"] for name, row in slots(outcome).items()} == {"a": "busy", "b": "upgraded"}
    assert site.custom_labels("a") == {"left"}
    end_job(site, job)
    assert upgrade(site).rc == 0
    is_well(site, NEXT)


def test_a_release_that_does_not_work_goes_back_by_itself_and_is_remembered(site: Site) -> None:
    """One slot tries it; neither provision nor the next upgrade takes it again, --retry does."""
    publish_broken(site, BROKEN)
    outcome = upgrade(site)
    assert outcome.rc != 0
    assert "rolled back" in outcome.output
    assert sorted(row["result"] for row in slots(outcome).values()) == ["failed", "rolled back"]
    is_well(site, NEXT)
    refused = json.loads(site.host.read("/var/lib/runnerctl/refused-release.json"))["releases"]
    assert [each["version"] for each in refused] == [BROKEN]
    provision = site.slots()
    assert provision.recap[site.host.name].changed == 0, provision.output
    assert f"{BROKEN} was rolled back here" in " ".join(provision.output.split())
    assert "refused" in upgrade(site).output
    is_well(site, NEXT)
    retried = upgrade(site, "-e", "upgrade_retry=true")
    assert "rolled back" in {row["result"] for row in slots(retried).values()}
    is_well(site, NEXT)


def test_a_tampered_download_is_refused_before_a_slot_is_cut(site: Site) -> None:
    """Two sources that disagree, and an archive that is not what both say."""
    made = site.world.publish(TAMPERED)
    asset = {"sha256": made.sha256, "download_url": made.url}
    other = {"digest": f"sha256:{'c' * 64}", "body_sha256": "c" * 64}
    site.github.release(TAMPERED, architectures={"x64": {**asset, **other}})
    site.github.clear_requests()
    outcome = upgrade(site)
    assert "two sources disagree" in " ".join(outcome.output.split())
    same = {"digest": f"sha256:{made.sha256}", "body_sha256": made.sha256}
    site.github.release(TAMPERED, architectures={"x64": {**asset, **same}})
    made.file.write_bytes(made.file.read_bytes()[:-1] + b"!")
    outcome = upgrade(site)
    assert outcome.rc != 0
    assert site.github.counts()[1] == 0
    assert TAMPERED not in site.shell("ls /opt/actions-runner")
    is_well(site, NEXT)


def test_a_controller_that_is_killed_in_the_middle_is_carried_on(site: Site) -> None:
    """A slot is stopped, switched and not started: the next run brings both to the release."""
    version = "2.341.0"
    site.world.publish(version)
    run = site.start("playbooks/upgrade.yml", *QUIET)
    wait_for_line(run, "is switched to")
    run.kill()
    outcome = upgrade(site)
    assert outcome.rc == 0, outcome.output
    is_well(site, version)


def test_a_slot_left_on_hold_by_a_killed_upgrade_is_left_to_the_next_one(site: Site) -> None:
    """A converge neither starts it nor routes it; an operator's hold keeps a slot stopped all along."""
    site.shell("/opt/runnerctl/bin/runnerctl drain a --no-routing --reason fans")
    site.host.put("/var/lib/runnerctl/hold/b", HOLD)
    site.shell("systemctl stop gha-runner@b")
    warned = " ".join(site.slots().output.split())
    assert "slot b stays stopped: upgrade to x; that upgrade did not end" in warned
    assert site.shell("systemctl is-active gha-runner@b || true").strip() == "inactive"
    site.world.publish("2.343.0")
    outcome = upgrade(site)
    assert outcome.rc == 0, outcome.output
    assert (site.record("b") or {})["version"] == "2.343.0"
    assert site.shell("systemctl is-active gha-runner@a || true").strip() == "inactive"
    assert "2.343.0" in site.shell("cat /etc/systemd/system/gha-runner@a.service.d/10-slot.conf")
    site.shell("/opt/runnerctl/bin/runnerctl resume a --no-routing")
    site.github.wait_runner(site.world.scope, f"{site.host.name}-a")
    assert upgrade(site).rc == 0
    is_well(site, "2.343.0")
