"""Jobs reach their own GPU and nothing of their neighbours': on real hosts, by the kernel's word."""

from __future__ import annotations

import json
import re
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
from tests.system.site import Site

UUIDS = tuple(f"GPU-{number:08x}-0000-4000-8000-00000000000{number}" for number in range(4))
SLOTS: list[dict[str, Any]] = [
    {"name": "one", "gpus": [UUIDS[0]], "labels": ["one"]},
    {"name": "two", "gpus": [UUIDS[2]], "labels": ["two"]},
    {"name": "none", "labels": ["none"]},
]
HOSTS = [pytest.param(("bookworm", False), id="v1"), pytest.param(("trixie", True), id="v2")]
HOLE = "/etc/systemd/system/gha-runner@two.service.d/99-hole.conf"
# In a job: what opening each node says. ENXIO: the rules let it through, and there is no driver behind it.
TRY = (
    "for n in 0 1 2 3 ctl; do python3 -c \"import os,sys,errno\ntry: os.open('/dev/nvidia$n', os.O_RDWR)\n"
    "except OSError as e: print('node', '$n', errno.errorcode[e.errno])\"; done"
)
# Code made and run in memory, a terminal, own IPC and shared memory, a debugger: what CUDA, .NET and Node do.
WORKS = """python3 - <<'END'
import ctypes, mmap, os, pty, signal, threading
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes([0xB8, 42, 0, 0, 0, 0xC3]))
code = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
assert code() == 42
mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # NORESERVE
libc = ctypes.CDLL(None, use_errno=True)
assert libc.shmget(0x1234, 4096, 0o1600) >= 0
from multiprocessing import shared_memory
shared = shared_memory.SharedMemory(create=True, size=1 << 20); shared.close(); shared.unlink()
threads = [threading.Thread(target=lambda: None) for _ in range(64)]
for each in threads: each.start()
for each in threads: each.join()
pid, handle = pty.fork()
if pid == 0: os.execv("/bin/echo", ["echo", "hi"])
assert os.read(handle, 8); os.waitpid(pid, 0)
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); os._exit(5)
os.waitpid(pid, 0); libc.ptrace(7, pid, 0, 0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
print("all of it works")
END"""


def scenario(minors: tuple[int, ...] = (0, 1, 2, 3)) -> str:
    """Four GPUs, in the same places, with these numbers."""
    gpus = (
        f"gpu.{index}.name {gpu.NAME}\ngpu.{index}.uuid {UUIDS[index]}\ngpu.{index}.minor {minor}\n"
        for index, minor in enumerate(minors)
    )
    return "count 4\n" + "".join(gpus)


@pytest.fixture(scope="module", params=HOSTS)
def site(
    request: pytest.FixtureRequest,
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with four GPUs, two slots with one each and one without; either kind of control groups."""
    suite, unified = request.param
    controller = Controller(Path(tmp_path_factory.mktemp("isolation")), lab.keys)
    host = module_hosts(suite=suite, unified=unified, devices=gpu.devices(4))
    gpu.install(host, scenario())
    variables = {
        "conda_manage": False,
        "runnerctl_health_timer": False,  # it would mend what is broken here
        "github_runner_slots": SLOTS,
    }
    made = Site([host], module_world, controller, variables)
    made.provision()
    yield made
    assert module_world.control.violations() == []


def verify(site: Site, words: str = "") -> tuple[int, dict[str, dict[str, Any]]]:
    """The verdict's exit code, and its findings by area and slot."""
    done = site.host.exec("runnerctl", "isolation", "verify", *words.split(), "-o", "json", check=False)
    answer = json.loads(done.stdout)
    assert answer["schema"] == "runnerctl.isolation/1"
    return done.rc, {f"{each['id']} {each['subject']}": each for each in answer["findings"]}


def health(site: Site, check: str, slot: str) -> dict[str, Any]:
    """One finding of health."""
    done = site.host.exec("runnerctl", "health", "--no-network", "-o", "json", check=False)
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return next(each for each in findings if (each["id"], each["subject"]) == (check, slot))


def opened(site: Site, slot: str) -> set[str]:
    """The GPUs' nodes that are open to a slot, as its own attempts found."""
    _, findings = verify(site, slot)
    return set(findings[f"isolation.devices {slot}"]["data"]["allowed"])


def restarts(site: Site, slot: str) -> int:
    """How often systemd itself has started the unit again."""
    return int(site.shell(f"systemctl show gha-runner@{slot} -p NRestarts --value"))


def test_each_job_opens_its_own_gpu_and_no_other(site: Site) -> None:
    """The kernel refuses the others (EPERM) before it looks whether there is a driver (ENXIO)."""
    expected = {"one": {"0", "ctl"}, "two": {"2", "ctl"}, "none": set[str]()}
    labels = {name: ["self-hosted", "linux", "x64", name] for name in expected}
    jobs = {name: site.job(f"{TRY}\n{WORKS}", labels=labels[name]) for name in expected}
    for name, job in jobs.items():
        result, log = site.result(job)
        said = dict(re.findall(r"node (\w+) (E\w+)", log))
        assert result == "success", log
        assert {node for node, code in said.items() if code == "ENXIO"} == expected[name], log
        assert {code for node, code in said.items() if node not in expected[name]} == {"EPERM"}, log
        assert "all of it works" in log


def test_nothing_else_is_within_reach(site: Site) -> None:
    """From within each unit that runs, and from within one that does not; every area of them all."""
    site.shell("systemctl stop gha-runner@none")
    rc, findings = verify(site)
    site.shell("systemctl start gha-runner@none")
    assert (rc, {each["status"] for each in findings.values()}) == (0, {"OK"}), findings
    areas = {name.split()[0].removeprefix("isolation.") for name in findings}
    assert areas >= {"devices", "files", "processes", "sockets", "writes", "limits", "privileges", "kernel"}
    assert sum(each["data"].get("tried", 0) for each in findings.values()) > 200
    left = site.shell("ls /run/systemd/system /run/runnerctl; systemctl list-units --all 'gha-verify*'")
    assert "verify" not in left.replace("gha-verify*", "")


def test_the_units_are_as_closed_as_promised(site: Site) -> None:
    """At most 3.0 was allowed; systemd knows best."""
    for slot in ("one", "two", "none"):
        said = site.shell(f"systemd-analyze security --no-pager gha-runner@{slot} | tail -1")
        found = re.search(r": (\d+\.\d)", said)
        assert found, said
        assert float(found[1]) <= 2.0, said


def test_a_daemon_reload_and_a_restart_by_systemd_change_nothing(site: Site) -> None:
    """A crash of the listener starts it again without us, and its devices are looked up again."""
    own = {"/dev/nvidia0", "/dev/nvidiactl"}
    site.shell("systemctl daemon-reload")
    assert opened(site, "one") == own
    before = restarts(site, "one")
    site.shell("kill -9 $(systemctl show gha-runner@one -p MainPID --value)")
    end = time.monotonic() + 30
    while restarts(site, "one") == before and time.monotonic() < end:
        time.sleep(0.5)
    assert restarts(site, "one") == before + 1
    active = "systemctl -q is-active gha-runner@one"
    site.shell(f"for _ in $(seq 100); do {active} && exit; sleep 0.1; done; exit 1")
    assert opened(site, "one") == own
    assert health(site, "slot.devices", "one")["status"] == "OK"


def test_numbers_that_changed_are_noticed_and_looked_up_again(site: Site) -> None:
    """The driver was loaded again, and two GPUs have each other's number: the next start has it right."""
    site.host.put(gpu.SCENARIO_IN_HOST, scenario((2, 1, 0, 3)))
    try:
        found = health(site, "slot.devices", "one")
        assert found["status"] == "CRITICAL"
        assert "/dev/char/195:0" in found["summary"], "it is another slot's now"
        site.shell("systemctl restart gha-runner@one gha-runner@two")
        assert opened(site, "one") == {"/dev/nvidia2", "/dev/nvidiactl"}
        assert opened(site, "two") == {"/dev/nvidia0", "/dev/nvidiactl"}
        assert verify(site)[0] == 0
    finally:
        site.host.put(gpu.SCENARIO_IN_HOST, scenario())
        site.shell("systemctl restart gha-runner@one gha-runner@two")


def test_a_slot_whose_gpu_is_gone_does_not_start_and_says_why(site: Site) -> None:
    """The others do not mind."""
    site.host.put(gpu.SCENARIO_IN_HOST, scenario().replace(UUIDS[2], "GPU-another"))
    try:
        done = site.host.exec("systemctl", "restart", "gha-runner@two", check=False)
        assert done.rc != 0
        assert site.host.exec("systemctl", "restart", "gha-runner@one").rc == 0
        assert UUIDS[2] in health(site, "slot.devices", "two")["summary"]
        assert f"{UUIDS[2]}: is not on this host" in site.host.journal("gha-devices@two")
        rc, findings = verify(site, "two")
        assert (rc, findings["isolation.devices two"]["status"]) == (2, "CRITICAL")
    finally:
        site.host.put(gpu.SCENARIO_IN_HOST, scenario())
    site.shell(
        "for _ in $(seq 150); do systemctl -q is-active gha-runner@two && exit; sleep 0.4; done; exit 1"
    )


def test_a_slot_on_hold_is_not_tried_again(site: Site) -> None:
    """What waits for a GPU that is gone does not undo a hold."""
    site.shell("mkdir -p /var/lib/runnerctl/hold && echo mine >/var/lib/runnerctl/hold/two")
    try:
        site.shell("systemctl start gha-again@two")
        assert "condition" in site.shell("systemctl status gha-again@two || :").lower()
    finally:
        site.shell("rm /var/lib/runnerctl/hold/two; systemctl start gha-runner@two")


def test_a_hole_that_somebody_made_is_named(site: Site) -> None:
    """In a unit that does not run, so that the next start would have it; health and the attempts agree."""
    site.shell("systemctl stop gha-runner@two")
    site.host.put(HOLE, "[Service]\nDeviceAllow=/dev/nvidia1 rw\nPrivateIPC=no\nBindPaths=/run/dbus\n")
    try:
        site.shell("systemctl daemon-reload; chmod 666 /opt/runnerctl/hooks/job-started.sh")
        assert "99-hole.conf" in health(site, "slot.exposure", "two")["summary"]
        site.host.put(HOLE, "[Service]\nReadWritePaths=/opt/runnerctl\nBindPaths=/run/dbus\n")
        site.shell("systemctl daemon-reload")
        rc, findings = verify(site, "two")
        assert rc == 2
        assert "/run/dbus/system_bus_socket" in findings["isolation.sockets two"]["summary"]
        assert "/opt/runnerctl/hooks/job-started.sh" in findings["isolation.writes two"]["summary"]
        assert findings["isolation.devices two"]["status"] == "OK"
    finally:
        site.host.exec("rm", "-f", HOLE)
        site.shell("chmod 755 /opt/runnerctl/hooks/job-started.sh; systemctl daemon-reload")
        site.shell("systemctl start gha-runner@two")
    assert verify(site)[0] == 0


def test_a_start_costs_little(site: Site) -> None:
    """Looking up a slot's devices is part of every start, also of an ephemeral slot's between two jobs."""
    took = site.shell(
        'python3 -c "import resource as r, subprocess as s\n'
        "words = ['runnerctl', 'isolation', 'devices', 'one', '--apply']\n"
        "for _ in range(3): s.run(words, check=True, stdout=s.DEVNULL)\n"
        'used = r.getrusage(r.RUSAGE_CHILDREN); print((used.ru_utime + used.ru_stime) / 3)"'
    )
    assert float(took) < 0.5, f"{took} s of a processor"


def test_jobs_that_end_at_once_are_no_reason_to_refuse_a_start(site: Site) -> None:
    """systemd allows five starts in ten seconds unless told else; an ephemeral slot may need more."""
    loop = "for _ in $(seq 12); do systemctl start gha-devices@one.service || echo refused; done"
    assert site.shell(loop) == ""
