"""Out and back: a sick GPU's slot is held, mended and released by the host itself; and the same by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.hosts import gpu
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.sick_host import (
    CLEAN,
    NAMES,
    REBOOT,
    RESET,
    SCENARIO,
    SERVICE,
    UUIDS,
    act,
    active,
    ail,
    events,
    eventually,
    fresh,
    heal,
    held,
    resets,
    sick_host,
)
from tests.system.site import Site


@pytest.fixture(scope="module")
def provisioned(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """That host; what a test does to its variables it undoes."""
    yield from sick_host(lab, module_world, module_hosts, tmp_path_factory.mktemp("quarantine"))


@pytest.fixture
def site(provisioned: Site) -> Site:
    """That host, healthy, with nothing on hold and nothing noted."""
    return fresh(provisioned)


@contextmanager
def working(site: Site, slot: str, label: str) -> Iterator[None]:
    """A job that runs for as long as this; it must end well, whatever is done to the slot meanwhile."""
    go = f"/var/lib/gha-runner/{slot}/home/go"
    begun = f"/var/lib/gha-runner/{slot}/home/begun"
    script = f"touch {begun}; while [ ! -e {go} ]; do sleep 0.1; done; rm {go}; echo survived"
    job = site.job(script, labels=[label])
    site.shell(f"for _ in $(seq 100); do [ -e {begun} ] && exit; sleep 0.1; done; exit 1")  # it was admitted
    try:
        yield
    finally:
        site.shell(f"touch {go}")
        result, log = site.result(job)
    assert result == "success", log
    assert "survived" in log


def test_a_sick_gpu_is_put_out_of_use_mended_and_brought_back(site: Site) -> None:
    """The running job ends well; only its slot is held; one reset; released after clean verdicts in a row."""
    site.shell("touch /root/nvml/cures")
    with working(site, "a", "first"):
        ail(site, 0, RESET)
        said = act(site)
        assert "slot a is put on hold" in said
        assert set(held(site)) == {"a"}
        assert "reset" in held(site)["a"]
        assert active(site) == {"a", "b", "c"}
        act(site)
        assert resets(site) == [], "a GPU with a job was reset"
        assert site.slots().recap[site.host.name].changed == 0
    eventually(site, {"b", "c"})
    waiting = site.job("echo ran", labels=["first"])
    assert "GPU 0" in site.host.ssh("runnerctl list").stdout
    assert "on hold by health" in site.host.journal("gha-runner@a.service")
    said = act(site)
    assert resets(site) == [f"--gpu-reset -i {UUIDS[0]}"]
    assert "was reset" in said
    assert site.slots().recap[site.host.name].changed == 0
    assert active(site) == {"b", "c"}
    assert "is released" in act(site, CLEAN)
    assert held(site) == {}
    assert events(site) == ["reset", "released"]
    result, log = site.result(waiting)
    assert result == "success", log


def test_a_job_that_slips_in_fails_with_the_reason(site: Site) -> None:
    """The hook turns it away, whatever its environment says; no step of it runs."""
    site.shell("mkdir -p /var/lib/runnerctl/hold; echo 'coolant leak 93 %' >/var/lib/runnerctl/hold/b")
    job = site.job(
        "echo the step ran",
        labels=["second"],
        env={"PATH": "/nowhere", "ACTIONS_RUNNER_HOOK_JOB_STARTED": "/bin/true", "IFS": "/"},
    )
    result, log = site.result(job)
    assert result == "failure", log
    assert "slot b takes no jobs: coolant leak 93 %" in log
    assert "Z the step ran" not in log
    assert site.result(site.job("echo fine", labels=["plain"]))[0] == "success"


def test_a_hold_outlives_a_reboot_and_what_is_forbidden_is_left_to_a_human(site: Site) -> None:
    """No reboot of our own without runnerctl_health_reboot; after the human's one the slot comes back."""
    boot = site.host.boot_id()
    ail(site, 1, REBOOT)
    act(site, 2)
    assert "boot the host by hand" in held(site)["b"]
    eventually(site, {"a", "c"})
    assert site.host.boot_id() == boot
    site.host.reboot()
    for name in ("a", "c"):
        site.github.wait_runner(site.world.scope, f"{site.host.name}-{name}", seconds=60)
    act(site, CLEAN)
    assert active(site) == {"a", "c"}
    assert "b" in held(site)
    heal(site)
    act(site, CLEAN)
    assert held(site) == {}
    eventually(site, set(NAMES))


def test_the_host_boots_itself_once_when_that_is_allowed_and_every_slot_has_run_dry(site: Site) -> None:
    """A job ends first; after the boot the well slots come back, and there is no second boot."""
    site.variables["runnerctl_health_reboot"] = True
    site.provision("--tags", "runnerctl")
    try:
        boot = site.host.boot_id()
        with working(site, "c", "plain"):
            ail(site, 0, REBOOT)
            act(site, 2)
            assert set(held(site)) == set(NAMES)
            assert site.host.boot_id() == boot
        eventually(site, set())
        site.host.exec("systemctl", "start", "--no-block", SERVICE)
        site.host.container.wait(timeout=60)  # a container that boots again ends
        site.host.keys.hang_up()
        site.host.start()
        assert site.host.boot_id() != boot
        assert active(site) == set()
        said = act(site)
        assert "taken out" in said
        assert set(held(site)) == {"a"}
        eventually(site, {"b", "c"})
        assert events(site) == ["reboot", "taken_out"]
        heal(site)
        site.host.ssh("runnerctl resume a --force")
    finally:
        del site.variables["runnerctl_health_reboot"]
        site.provision("--tags", "runnerctl")


def test_a_driver_that_fails_holds_every_slot_with_gpus(site: Site) -> None:
    """The slot without GPUs goes on; UNKNOWN changes nothing."""
    site.shell(f"echo 'fault nvmlInitWithFlags return 18' >>{SCENARIO}")
    act(site)
    assert set(held(site)) == {"a", "b"}
    assert active(site) == {"c"}
    heal(site)
    site.shell(f"mv {gpu.LIBRARY_IN_HOST} /root/nvml/library")
    site.shell(f"mv /root/nvml/library {gpu.LIBRARY_IN_HOST}")
    act(site, CLEAN)
    assert active(site) == set(NAMES)


def test_a_gpu_that_no_reset_helps_is_taken_out_until_a_human_says_otherwise(site: Site) -> None:
    """Two resets a day, then out: clean verdicts do not bring it back, `resume --force` does."""
    ail(site, 0, RESET)
    act(site, 4)
    assert len(resets(site)) == 2
    assert "taken out" in held(site)["a"]
    heal(site)
    act(site, CLEAN + 1)
    assert "a" in held(site)
    done = site.host.ssh("runnerctl resume a", check=False)
    assert done.rc == 75
    assert "held by health" in done.stderr
    assert "--force" in done.stderr
    site.host.ssh("runnerctl resume a --force")
    assert active(site) == set(NAMES)
    act(site)
    assert held(site) == {}


def test_the_operators_hold_is_not_the_verdicts_to_lift(site: Site) -> None:
    """Both stand in one file; the slot starts when the last has gone."""
    site.shell("touch /root/nvml/cures")
    site.host.ssh("runnerctl drain b --reason 'a new power supply'")
    assert active(site) == {"a", "c"}
    ail(site, 1, RESET)
    act(site, 2)
    assert "a new power supply" in held(site)["b"]
    assert "GPU 1: " in held(site)["b"]
    act(site, CLEAN)
    assert held(site)["b"] == "a new power supply"
    assert active(site) == {"a", "c"}
    site.host.ssh("runnerctl resume b")
    assert active(site) == set(NAMES)
    assert site.slots().recap[site.host.name].changed == 0


def test_drain_waits_for_the_job_and_resume_takes_it_back(site: Site) -> None:
    """By hand: no job is killed; a drain that is taken back in time stops nothing."""
    invocation = site.shell("systemctl show -p InvocationID gha-runner@c")
    with working(site, "c", "plain"):
        done = site.host.ssh("runnerctl drain c --wait --timeout 1", check=False)
        assert done.rc == 75
        assert "still runs a job" in done.stderr
        site.host.ssh("runnerctl resume c")
    time.sleep(1)
    assert site.shell("systemctl show -p InvocationID gha-runner@c") == invocation
    with working(site, "c", "plain"):
        site.host.ssh("runnerctl drain c --reason 'kernel update'")
        site.shell("setsid sh -c 'sleep 2; touch /var/lib/gha-runner/c/home/go' >/dev/null 2>&1 &")
        site.host.ssh("runnerctl drain c --wait")
        assert active(site) == {"a", "b"}
    assert site.slots().recap[site.host.name].changed == 0
    site.host.reboot()
    assert "c" not in active(site)
    site.host.ssh("runnerctl resume c")
    eventually(site, set(NAMES))


def timer(site: Site) -> list[str]:
    """What a converge of role runnerctl does about the timer."""
    done = site.provision("--tags", "runnerctl").result("Install runnerctl and write the spec of the host")
    return [action for action in done.data["actions"] if "runnerctl-health" in action]


def test_the_timer_comes_and_goes_with_its_variable(site: Site) -> None:
    """Enabled and running; taken away when inventory says so, and brought back; repaired when harmed."""
    state = "systemctl is-active runnerctl-health.timer; systemctl is-enabled runnerctl-health.timer; true"
    assert site.shell(state).split() == ["active", "enabled"]
    assert timer(site) == []
    site.variables["runnerctl_health_timer"] = False
    try:
        assert timer(site) == ["removed runnerctl-health.timer"]
        assert site.shell(f"{state} 2>/dev/null").split()[0] == "inactive"
        assert timer(site) == []
    finally:
        del site.variables["runnerctl_health_timer"]
    assert timer(site)[-1] == "started runnerctl-health.timer"
    assert site.shell(state).split() == ["active", "enabled"]
    unit = "runnerctl-health.timer"
    masked = f"ln -sf /dev/null /etc/systemd/system/{unit}; systemctl daemon-reload; systemctl stop {unit}"
    for harm in (f"systemctl stop {unit}", f"systemctl disable -q {unit}", masked):
        site.shell(harm)
        assert timer(site), harm
        assert site.shell(state).split() == ["active", "enabled"], harm
    assert timer(site) == []
