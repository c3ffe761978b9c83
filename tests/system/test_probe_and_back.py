"""A GPU that should prove itself: probed when idle, held when it fails, back after a probe that passes.

The kernel log and both libraries of NVIDIA are played; what judges and acts is the installed command.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.fakes import cuda
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.machine import CACHE, ensure_programs, locked
from tests.hosts.world import World
from tests.system.sick_host import (
    CLEAN,
    NAMES,
    UUIDS,
    act,
    active,
    events,
    eventually,
    fresh,
    held,
    resets,
    sick_host,
)
from tests.system.site import Site

LIBRARY = f"/usr/lib/x86_64-linux-gnu/{cuda.SONAME}"
CUDA = "/etc/cuda-scenario"
SOUND = "count 2\n" + "".join(f"gpu.{index}.uuid {uuid}\n" for index, uuid in enumerate(UUIDS))
BROKEN = f"{SOUND}fault cuLaunchKernel@0 return 719\n"
FORGETFUL = f"{SOUND}flip_word 2000000\n"
LOG = "/root/kernel-log"
# Containers share the machine's kernel log and have none of their own; everything else is the real program's.
JOURNALCTL = f"""#!/bin/sh
case "$*" in
    *_TRANSPORT=kernel*) cat {LOG} ;;
    *) exec /usr/bin/journalctl "$@" ;;
esac
"""
BASELINE = "/var/lib/runnerctl/baseline.json"
SAVED = "saved the baseline of the GPUs"
TASK = "Install runnerctl and write the spec of the host"


@pytest.fixture(scope="module")
def provisioned(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with two GPUs and CUDA."""
    ensure_programs({"gcc": "gcc libc6-dev"})
    with locked("cuda"):
        library = cuda.build(CACHE / "cuda")
    for site in sick_host(lab, module_world, module_hosts, tmp_path_factory.mktemp("probe")):
        site.host.install(library, LIBRARY, mode=0o755)
        site.host.exec("ldconfig")
        site.host.put("/usr/local/bin/journalctl", JOURNALCTL, mode=0o755)
        yield site


@pytest.fixture
def site(provisioned: Site) -> Site:
    """That host, healthy, with nothing on hold, nothing noted and nothing in the kernel log."""
    provisioned.host.put(CUDA, SOUND)
    provisioned.host.put(LOG, "")
    log(provisioned, "Linux version 6.1.0")
    provisioned.shell("rm -f /run/runnerctl/kernel-log.json")
    return fresh(provisioned)


def log(site: Site, message: str) -> None:
    """The kernel says this."""
    now = time.time()
    row = {
        "__CURSOR": f"s=1;t={now}",
        "__REALTIME_TIMESTAMP": f"{now * 1_000_000:.0f}",
        "_BOOT_ID": site.host.boot_id(),
        "MESSAGE": message,
    }
    site.host.put(LOG, site.host.read(LOG) + json.dumps(row) + "\n")


def suspect(site: Site) -> None:
    """An Xid of class PROBE on GPU 0."""
    log(site, "NVRM: Xid (PCI:0000:11:00): 8, pid=4711, name=python3, Ch 00000010")


def finding(site: Site, check: str) -> str:
    """The worst status of a check, by the installed command."""
    told = json.loads(site.host.ssh("runnerctl health --no-network -o json", check=False).stdout)
    statuses = {each["status"] for each in told["findings"] if each["id"] == check}
    return next((each for each in ("CRITICAL", "UNKNOWN", "WARNING", "OK") if each in statuses), "")


def test_a_gpu_that_passes_its_probe_is_suspect_no_more(site: Site) -> None:
    """No slot is touched; a GPU with a job is left alone until that has ended."""
    go = "/var/lib/gha-runner/a/home/go"
    job = site.job(f"while [ ! -e {go} ]; do sleep 0.1; done; rm {go}", labels=["first"])
    site.github.wait_job(job, status="in_progress")
    suspect(site)
    assert "GPU 0 is to be probed, and is in use by a job" in act(site)
    assert finding(site, "xid.events") == "WARNING"
    site.shell(f"touch {go}")
    assert site.result(job)[0] == "success"
    assert "GPU 0 passed its probe" in act(site)
    assert events(site) == ["probe_passed"]
    assert finding(site, "xid.events") == "OK"
    assert "probe" not in act(site)
    assert active(site) == set(NAMES)


def test_a_gpu_that_fails_its_probe_is_held_until_one_passes(site: Site) -> None:
    """Reset in between; NVML, which finds nothing, does not bring it back."""
    suspect(site)
    site.host.put(CUDA, BROKEN)
    said = act(site)
    assert "slot a is put on hold: GPU 0: its probe failed: a small CUDA program fails" in said
    assert finding(site, "xid.events") == "CRITICAL"
    assert active(site) == {"b", "c"}
    assert "CUDA_ERROR_LAUNCH_FAILED" in held(site)["a"]
    act(site)
    assert resets(site) == [f"--gpu-reset -i {UUIDS[0]}"]
    act(site)
    assert events(site) == ["probe_failed", "reset", "probe_failed", "reset"]
    site.host.put(CUDA, SOUND)
    said = act(site, CLEAN)
    assert "GPU 0 passed its probe" in said
    assert "slot a is released" in said
    assert events(site)[-2:] == ["probe_passed", "released"]
    eventually(site, set(NAMES))


def test_a_host_without_cuda_says_why_and_goes_on(site: Site) -> None:
    """A driver without CUDA's library: a warning stays a warning."""
    suspect(site)
    site.shell(f"mv {LIBRARY} /root/{cuda.SONAME}; ldconfig")
    try:
        assert "GPU 0 was not probed: CUDA's library cannot be loaded" in act(site)
        assert finding(site, "xid.events") == "WARNING"
        assert active(site) == set(NAMES)
    finally:
        site.shell(f"mv /root/{cuda.SONAME} {LIBRARY}; ldconfig")
    assert "GPU 0 passed its probe" in act(site)


def test_what_deep_finds_is_remembered_by_the_timer(site: Site) -> None:
    """Bad memory: rounds without --deep find NVML clean, and keep the slots out until it passes."""
    site.host.put(CUDA, FORGETFUL)
    done = site.host.ssh("runnerctl health --deep --act --no-network", check=False)
    assert done.rc == 2
    assert "memory does not keep what is written" in held(site)["a"]
    assert set(held(site)) == {"a", "b"}
    assert active(site) == {"c"}
    site.host.put(CUDA, SOUND)
    act(site)
    assert sorted(resets(site)) == sorted(f"--gpu-reset -i {uuid}" for uuid in UUIDS)
    assert "is released" in act(site, CLEAN)
    assert held(site) == {}
    eventually(site, set(NAMES))


def converged(site: Site, *options: str) -> list[str]:
    """What a converge of role runnerctl did, or would do."""
    actions: list[str] = site.provision("--tags", "runnerctl", *options).result(TASK).data["actions"]
    return actions


def test_a_provision_saves_the_first_baseline(site: Site) -> None:
    """Once; GPUs that do not answer fail nothing and change nothing; check mode says the same."""
    assert finding(site, "gpu.baseline") == "OK"
    assert converged(site) == []
    site.host.ssh("runnerctl baseline clear")
    assert converged(site, "--check") == [SAVED]
    assert not site.host.exists(BASELINE)
    site.shell("echo 'fault nvmlInitWithFlags return 999' >>/root/nvml/scenario")
    assert converged(site, "--check") == []
    assert converged(site) == []
    site.shell("cp /root/nvml/healthy /root/nvml/scenario")
    assert converged(site) == [SAVED]
    assert converged(site) == []


def test_what_the_docker_engine_owes_is_a_finding(site: Site) -> None:
    """While the process that owes it runs; here that is the first one."""
    assert finding(site, "docker.pending") == ""
    start = site.host.read("/proc/1/stat").rpartition(")")[2].split()[19]
    for engine, status in ((f"1:{start}", "WARNING"), ("1:1", "OK")):
        note = {"act": "restart", "engine": engine, "reason": "slot a ran a job"}
        site.host.put("/var/lib/runnerctl/docker-due.json", json.dumps(note))
        assert finding(site, "docker.pending") == status
    site.shell("rm /var/lib/runnerctl/docker-due.json")
