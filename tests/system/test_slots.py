"""The life of slots on a real host: converge, converge again, every kind of drift, jobs under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import GPU, LABELS, Site

SLOTS: list[dict[str, Any]] = [{"name": "a", "gpus": [GPU]}, {"name": "b", "labels": ["Big", "a100"]}]
DERIVED = {"gpu-model-l4", "gpu-vram-22gib", "gpu-count-1", "gpu-cc-8.9", "gpu-cuda-12", "gpu-driver-575"}
OF_A = {"gpu", *DERIVED}


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A bare host (no python3-apt) with two slots, converged by the first test and repaired by the others.

    It has runnerctl and a GPU: without either a slot that claims one does not start.
    """
    controller = Controller(Path(tmp_path_factory.mktemp("slots")), lab.keys)
    host = module_hosts(variant="bare")
    gpu.install(host, gpu.ONE_L4.replace(gpu.UUID, GPU))
    alone = {"runnerctl_health_timer": False, "runnerctl_guard": False}  # nothing else writes
    made = Site([host], module_world, controller, {"github_runner_slots": SLOTS, **alone})
    made.provision("--tags", "runnerctl")
    yield made
    assert module_world.control.violations() == []


@pytest.fixture
def converged(site: Site) -> Site:
    """The site as inventory says, with nothing waiting."""
    site.slots()
    site.github.clear_requests()
    return site


def _everything(host: Host) -> str:
    """A fingerprint of all that a play could change: files, packages, users, units."""
    command = (
        "find /etc /opt /usr/local /var/lib /root -xdev -not -path '/var/lib/systemd/*'"
        " -printf '%p %m %U %s %T@\\n' | sort | sha256sum; dpkg -l | sha256sum;"
        " systemctl list-unit-files --no-legend | sort | sha256sum"
    )
    return host.exec("sh", "-c", command).stdout


def test_check_mode_on_a_bare_host_predicts_and_writes_nothing(site: Site) -> None:
    """What it says would change is what the real run then changes; nothing is written, no token minted."""
    before = _everything(site.host)
    predicted = site.slots("--check", "--diff")
    assert _everything(site.host) == before
    assert site.github.counts()[1] == 0, "check mode wrote to GitHub"
    assert site.github.runners() == []
    real = site.slots()
    assert predicted.changed(site.host.name) == real.changed(site.host.name)
    assert set(site.actions(predicted)) <= set(site.actions(real))
    assert "registration of" in " ".join(site.actions(predicted))


def test_two_slots_are_online_with_their_labels(converged: Site) -> None:
    """The fixed labels, `gpu` where there is one, and inventory's; compared as GitHub does."""
    for slot, labels in (("a", OF_A), ("b", {"big", "a100"})):
        record = converged.record(slot)
        assert record is not None
        assert record["status"] == "online"
        assert converged.custom_labels(slot) == labels


def test_the_second_run_changes_nothing_and_writes_nothing(converged: Site) -> None:
    """`changed=0`, no write to GitHub, no download, two requests more than slots at most."""
    outcome = converged.slots()
    assert outcome.recap[converged.host.name].changed == 0, outcome.changed()
    requests, writes = converged.github.counts()
    assert writes == 0
    assert requests <= len(SLOTS) + 1
    assert converged.slots("--check", "--diff").recap[converged.host.name].changed == 0


def test_a_job_runs_on_the_slot_with_its_labels(converged: Site) -> None:
    """As the slot's own user, with the slot's GPU, in its own directory; the log comes back."""
    result, log = converged.result(converged.job("id -un; echo gpu=$CUDA_VISIBLE_DEVICES; pwd; echo $HOME"))
    assert result == "success", log
    assert "gha-a" in log
    assert f"gpu={GPU}" in log
    assert "/var/lib/gha-runner/a/_work/widgets/widgets" in log


def test_a_job_cannot_change_the_runner_or_see_a_neighbour(converged: Site) -> None:
    """Code, environment file and structure belong to root; the other slot's files are out of reach."""
    attempts = [
        "echo x >> /var/lib/gha-runner/a/.env",
        "echo x > /var/lib/gha-runner/a/run.sh",
        "rm -f /var/lib/gha-runner/a/.runner",
        "mv /var/lib/gha-runner/a/_diag /var/lib/gha-runner/a/_x",
        "touch /var/lib/gha-runner/a/bin/Runner.Listener",
        "touch /opt/actions-runner/2.336.0/bin/Runner.Listener",
        "ls /var/lib/gha-runner/b",
        "cat /var/lib/gha-runner/b/.credentials",
        "touch /etc/systemd/system/x.service",
        "sudo -n true",
    ]
    script = "\n".join(
        f"if ( {attempt} ) 2>/dev/null; then echo 'REACHED: {attempt}'; fi" for attempt in attempts
    )
    result, log = converged.result(converged.job(f"{script}\necho all tried"))
    assert result == "success", log
    assert "all tried" in log
    assert not [line for line in log.splitlines() if "Z REACHED:" in line]


def test_no_secret_stays_on_the_host_or_in_a_log(converged: Site) -> None:
    """Neither the credential nor a registration token: in no file, journal or log, at any verbosity."""
    runner_id = (converged.record("a") or {})["id"]
    converged.github.delete_runner(runner_id)  # so that a token is minted under full verbosity
    outcome = converged.slots("-vvvvv", environment={"ANSIBLE_DEBUG": "1"})
    secrets = {converged.world.token, *converged.github.secrets("registration", "remove")}
    assert len(secrets) > 1
    log = outcome.output
    journal = converged.shell("journalctl --no-pager -o export | tr -cd '[:print:]\\n'")
    places = "/etc /opt/runnerctl /opt/actions-runner /root /tmp /run /var"
    converged.host.put("/root/.secrets", "\n".join(secrets))
    found = converged.shell(f"grep -rlF -f /root/.secrets {places} 2>/dev/null || true")
    converged.shell("rm /root/.secrets")
    assert [line for line in found.splitlines() if line != "/root/.secrets"] == []
    for secret in secrets:
        assert secret not in log
        assert secret not in journal


def test_labels_and_group_changed_by_hand_are_repaired_in_one_run(converged: Site) -> None:
    """Only what differs is written; nothing is registered again."""
    record = converged.record("b") or {}
    converged.github.change_runner(record["id"], labels=["by-hand"])
    predicted = converged.slots("--check", "--diff")
    assert any("labels +a100 +big -by-hand" in action for action in converged.actions(predicted))
    assert converged.github.counts()[1] == 0
    outcome = converged.slots()
    assert converged.custom_labels("b") == {"big", "a100"}
    assert (converged.record("b") or {})["id"] == record["id"]
    assert converged.github.counts()[1] == 1
    assert outcome.recap[converged.host.name].changed == 1


def test_drift_on_the_host_is_repaired_in_one_run(converged: Site) -> None:
    """Unit, drop-in, environment, modes, enablement, a stopped and a masked service."""
    converged.shell(
        "rm -r /etc/systemd/system/gha-runner@a.service.d; chmod 777 /var/lib/gha-runner/b;"
        "echo X=1 > /var/lib/gha-runner/b/.env; systemctl disable -q --now gha-runner@b;"
        "echo '# more' >> /etc/systemd/system/gha-runner@.service; systemctl daemon-reload"
    )
    predicted = converged.slots("--check", "--diff")
    outcome = converged.slots()
    assert set(converged.actions(predicted)) <= set(converged.actions(outcome))
    assert converged.slots().recap[converged.host.name].changed == 0
    converged.shell("systemctl stop gha-runner@a; systemctl mask -q gha-runner@a")
    converged.slots()
    assert converged.shell("systemctl is-active gha-runner@a").strip() == "active"


def test_a_job_running_while_everything_drifts_is_not_killed(converged: Site) -> None:
    """The slot is restarted when the job has ended, by the next converge at the latest."""
    job = converged.job("echo begun; sleep 12; echo survived")
    converged.github.wait_job(job, status="in_progress")
    converged.shell(
        "echo X=1 > /var/lib/gha-runner/a/.env; echo '# more' >> /etc/systemd/system/gha-runner@.service"
    )
    converged.github.change_runner((converged.record("a") or {})["id"], labels=[])
    outcome = converged.slots()
    slot = next(s for s in outcome.result("what inventory says").data["slots"] if s["name"] == "a")
    assert slot["busy"]
    assert slot["pending_restart"]
    assert converged.custom_labels("a") == OF_A
    result, log = converged.result(job)
    assert result == "success", log
    assert "survived" in log
    final = converged.slots()
    assert not converged.host.exists("/var/lib/runnerctl/pending/a")
    assert converged.slots().recap[converged.host.name].changed == 0, final.output


def test_a_runner_deleted_on_github_is_registered_again(converged: Site) -> None:
    """Its listener ends and cannot wipe root's files; one run brings it back under its own name."""
    old = (converged.record("a") or {})["id"]
    converged.github.delete_runner(old)
    converged.slots()
    record = converged.record("a") or {}
    assert record["status"] == "online"
    assert record["id"] != old
    assert converged.state("a")["agent_id"] == record["id"]
    assert converged.slots().recap[converged.host.name].changed == 0


def test_leftovers_of_the_slots_user_are_gone_before_a_token_comes_near(converged: Site) -> None:
    """A process that a job left behind does not live to see the registration."""
    converged.shell("setsid setpriv --reuid gha-a --clear-groups --regid gha-a sleep 1000 >/dev/null 2>&1 &")
    converged.github.delete_runner((converged.record("a") or {})["id"])
    converged.slots()
    assert converged.shell("pgrep -u gha-a -x sleep || true").strip() == ""


def test_the_host_reboots_and_the_runners_come_back_by_themselves(converged: Site) -> None:
    """Enabled units; no play is needed."""
    converged.host.reboot()
    for slot in ("a", "b"):
        name = f"{converged.host.name}-{slot}"
        converged.github.wait_runner(converged.world.scope, name, seconds=60)
    assert converged.slots().recap[converged.host.name].changed == 0


def test_a_held_slot_stays_stopped(converged: Site) -> None:
    """A hold file keeps the unit from starting, at a converge too; without it the slot comes back."""
    converged.shell("mkdir -p /var/lib/runnerctl/hold; echo 'sick GPU' > /var/lib/runnerctl/hold/b")
    converged.shell("systemctl stop gha-runner@b; systemctl start gha-runner@b; true")
    outcome = converged.slots()
    assert outcome.recap[converged.host.name].changed == 0
    assert converged.shell("systemctl is-active gha-runner@b || true").strip() == "inactive"
    converged.shell("rm /var/lib/runnerctl/hold/b")
    converged.slots()
    assert (converged.record("b") or {})["status"] == "online"


def test_a_new_release_is_installed_and_used_when_idle(converged: Site) -> None:
    """GitHub offers another version: one download for both slots, then both run it."""
    converged.world.mirror.forget_downloads()
    converged.world.publish("2.337.0")
    converged.slots()
    for slot in ("a", "b"):
        assert (converged.record(slot) or {})["version"] == "2.337.0"
    assert sum(converged.world.mirror.downloads().values()) == 1
    assert converged.slots().recap[converged.host.name].changed == 0


def test_a_slot_taken_out_of_inventory_leaves_no_ghost(converged: Site) -> None:
    """Unregistered on GitHub, user and files gone; the other slot is not touched."""
    kept = (converged.record("a") or {})["id"]
    converged.variables["github_runner_slots"] = SLOTS[:1]
    try:
        predicted = converged.slots("--check")
        assert "removal of slot b" in converged.actions(predicted)
        converged.slots()
        assert converged.record("b") is None
        assert not converged.host.exists("/var/lib/gha-runner/b")
        assert "gha-b" not in converged.host.read("/etc/passwd")
        assert (converged.record("a") or {})["id"] == kept
        assert converged.slots().recap[converged.host.name].changed == 0
    finally:
        converged.variables["github_runner_slots"] = SLOTS
    converged.slots()
    assert (converged.record("b") or {})["status"] == "online"


def test_a_busy_slot_taken_out_of_inventory_waits(converged: Site) -> None:
    """Its job ends first; a later run removes it."""
    job = converged.job("sleep 8; echo done", labels=["big"])
    converged.github.wait_job(job, status="in_progress")
    converged.variables["github_runner_slots"] = SLOTS[:1]
    try:
        outcome = converged.slots()
        assert "runs a job" in outcome.output
        assert converged.result(job)[0] == "success"
        time.sleep(1)
        converged.slots()
        assert converged.record("b") is None
    finally:
        converged.variables["github_runner_slots"] = SLOTS
    assert LABELS
