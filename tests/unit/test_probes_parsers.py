"""The pure halves of the probes: text in, readings out."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.snapshot import Clock, Conda, Registration, SlotState, SpecFile, Unavailable, Unit
from runnerctl.core.spec import host_spec
from runnerctl.probes import machine, network, slots, system, units
from runnerctl.probes.bounded import Outcome, Task, run_all
from runnerctl.probes.collect import api_urls_of

SHOW = """Id=gha-runner@main.service
LoadState=loaded
ActiveState=failed
SubState=failed
Result=exit-code
ExecMainCode=1
ExecMainStatus=7
ExecMainStartTimestampMonotonic=123456
MainPID=0
NRestarts=3
UnitFileState=enabled
ControlGroup=
InvocationID=aa

Id=gha-runner@gpu-1.service
LoadState=not-found
ActiveState=inactive
SubState=dead
ExecMainStatus=[not set]
"""


def test_one_systemctl_show_gives_all_units() -> None:
    """Blocks are told apart by their Id, and a property that is not set is no crash."""
    found = units.parse_units(SHOW)
    assert set(found) == {"main", "gpu-1"}
    assert found["main"].exec_main_status == 7
    assert found["main"].restarts == 3
    assert found["main"].ever_started
    assert found["gpu-1"].load_state == "not-found"
    assert not found["gpu-1"].ever_started


def _row(slot: str, message: Any, *, second: int = 0, run: str = "aa") -> str:
    return json.dumps(
        {
            "MESSAGE": message,
            "_SYSTEMD_UNIT": units.unit_of(slot),
            "_SYSTEMD_INVOCATION_ID": run,
            "__REALTIME_TIMESTAMP": str(1_790_000_000_000_000 + second * 1_000_000),
            "__CURSOR": f"{slot}{second}",
        }
    )


def test_the_journal_is_read_per_slot_and_run() -> None:
    """Lines of an earlier run say nothing about this one; bytes and cut lines are survived."""
    text = "\n".join(
        (
            _row("main", "old run", run="00"),
            _row("main", "Current runner version: '2.337.0'", second=1),
            _row("main", [76, 195, 164, 255], second=2),
            _row("other", "its own line"),
            _row("main", "cut")[:30],
        )
    )
    found = units.parse_journal([text, text], {"main": "aa"})
    assert [line.message for line in found["main"]] == ["Current runner version: '2.337.0'", "Lä\ufffd"]
    assert [line.message for line in found["other"]] == ["its own line"]
    assert units.running_version(found["main"]) == "2.337.0"
    assert units.running_version(Unavailable("no journal")) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, None),
        (
            b'{"agentId": 7, "agentName": "a", "gitHubUrl": "https://github.com/o/r"}',
            "https://github.com/o/r",
        ),
        (b'\xef\xbb\xbf{"AgentId": 7, "AGENTNAME": "a", "gitHubUrl": "https://x/o"}', "https://x/o"),
    ],
)
def test_a_registration_is_read(data: bytes | None, expected: str | None) -> None:
    """With a byte order mark, and whatever the case of its keys."""
    found = slots.parse_registration(data)
    assert found == (Registration(7, "a", expected) if data else None)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"agentId": "x", "agentName": "a"}'])
def test_a_damaged_registration_is_not_absent(data: bytes) -> None:
    """A file cut off is something else than no file."""
    assert isinstance(slots.parse_registration(data), Unavailable)


def test_established_sockets_are_found() -> None:
    """Only state 01 counts: listening and closing sockets are no connection."""
    table = (
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1 0 100 0\n"
        b"   1: 0200A8C0:A8DE 04D8528C:01BB 01 00000000:00000000 00:00000000 00000000 0 0 222 1 0 100 0\n"
    )
    assert slots.parse_established(table) == {"222"}
    assert slots.parse_established(None) == set()


def _slot_tree(root: Path) -> None:
    group = root / "sys/fs/cgroup/system.slice/gha-runner@main.service/job"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("12\n")
    (group.parent / "cgroup.procs").write_text("11\n99\n")
    for pid, comm in ((11, "Runner.Listener"), (12, "Runner.Worker")):
        (root / f"proc/{pid}/fd").mkdir(parents=True)
        (root / f"proc/{pid}/net").mkdir()
        (root / f"proc/{pid}/comm").write_text(f"{comm}\n")
    (root / "proc/11/fd/7").symlink_to("socket:[222]")
    (root / "proc/11/net/tcp").write_text("head\n 1: a b 01 c d e f g 222 1\n 2: a b 01 c d e f g 333 1\n")


UNIT = Unit(
    "gha-runner@main.service",
    "loaded",
    "active",
    "running",
    control_group="/system.slice/gha-runner@main.service",
)


def test_processes_and_connections_of_a_unit(tmp_path: Path) -> None:
    """Groups below the unit's count; a process that just ended does not; only the listener's sockets do."""
    _slot_tree(tmp_path)
    found = slots.read_processes(tmp_path, UNIT)
    assert isinstance(found, tuple)
    assert [(process.pid, process.comm) for process in found] == [
        (11, "Runner.Listener"),
        (12, "Runner.Worker"),
    ]
    assert slots.count_connections(tmp_path, UNIT, found) == 1


def test_sockets_that_may_not_be_read_are_no_missing_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable link says nothing: the answer is that we may not look, never a count."""
    _slot_tree(tmp_path)
    found = slots.read_processes(tmp_path, UNIT)

    def refuse(*_: object) -> str:
        raise PermissionError

    monkeypatch.setattr("os.readlink", refuse)
    count = slots.count_connections(tmp_path, UNIT, found)
    assert isinstance(count, Unavailable)
    assert count.kind == "denied"


def test_slots_are_the_specs_and_those_on_disk(tmp_path: Path) -> None:
    """A name that is no slot name is left alone: it would become part of a unit's name."""
    for name in ("old", "main", "Bad Name"):
        (tmp_path / "var/lib/gha-runner" / name).mkdir(parents=True)
    (tmp_path / "var/lib/runnerctl/slots").mkdir(parents=True)
    (tmp_path / "var/lib/runnerctl/slots/ghost.json").write_text("{}")
    spec, _ = host_spec(
        "h", {"github_runner_url": "https://github.com/o", "github_runner_slots": [{"name": "main"}]}
    )
    assert slots.slot_names(tmp_path, spec) == ("main", "ghost", "old")
    assert slots.slot_state(tmp_path, "ghost") == SlotState("ghost")


def test_the_bound_version_is_the_drop_ins(tmp_path: Path) -> None:
    """What the unit binds counts more than what was written down."""
    state = SlotState("main", version="2.336.0")
    assert slots.bound_version(tmp_path, "main", state) == "2.336.0"
    folder = tmp_path / "etc/systemd/system/gha-runner@main.service.d"
    folder.mkdir(parents=True)
    (folder / "10-slot.conf").write_text("BindReadOnlyPaths=/opt/actions-runner/2.337.0/bin:/x/bin\n")
    assert slots.bound_version(tmp_path, "main", state) == "2.337.0"


def test_the_driver_version_in_proc() -> None:
    """Both flavours print their version, and only one says that it is open."""
    closed = (
        b"NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  Fri Jun 20 2025\nGCC version: 12.2.0\n"
    )
    is_open = b"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build  (root@x)\n"
    assert machine.parse_nvidia_version(closed) == ("535.261.03", False)
    assert machine.parse_nvidia_version(is_open) == ("575.57.08", True)
    assert machine.parse_nvidia_version(b"") == (None, None)


def test_gpus_on_the_bus(tmp_path: Path) -> None:
    """Vendor 10de and class 03; its audio function and other cards are none."""
    devices = tmp_path / "sys/bus/pci/devices"
    rows = {
        "0000:01:00.0": ("0x10de", "0x030000"),
        "0000:01:00.1": ("0x10de", "0x040300"),
        "0000:02:00.0": ("0x10de", "0x030200"),
        "0000:03:00.0": ("0x1002", "0x030000"),
    }
    for address, (vendor, kind) in rows.items():
        (devices / address).mkdir(parents=True)
        (devices / address / "vendor").write_text(f"{vendor}\n")
        (devices / address / "class").write_text(f"{kind}\n")
    found = machine.read_pci_gpus(tmp_path)
    assert isinstance(found, tuple)
    assert [gpu.address for gpu in found] == ["0000:01:00.0", "0000:02:00.0"]
    assert machine.read_pci_gpus(tmp_path / "elsewhere") == ()


def test_conda_is_recognised_by_its_own_record(tmp_path: Path) -> None:
    """Not by packages whose names begin alike."""
    assert _conda(tmp_path) == Conda("/opt/miniforge3")
    meta = tmp_path / "opt/miniforge3/conda-meta"
    meta.mkdir(parents=True)
    for name in (
        "conda-libmamba-solver-25.4.0-pyhd8ed1ab_0.json",
        "conda-26.3.2-py313h78bf25f_0.json",
        "history",
    ):
        (meta / name).touch()
    (tmp_path / "opt/miniforge3").chmod(0o775)
    found = _conda(tmp_path)
    assert not isinstance(found, Unavailable)
    assert (found.version, found.writable_by_others) == ("26.3.2", True)


def _conda(root: Path) -> Conda | Unavailable:
    task = Task(partial(machine.read_conda, rootfs=root), 10)
    return machine.parse_conda(run_all({"conda": task})["conda"])


def test_a_prefix_that_does_not_answer_is_not_known() -> None:
    """A network mount whose server is away: it is read in a child, and the child was given up."""
    stopped = Unavailable("stat /opt/miniforge3 did not return within 5.0 s", kind="timeout")
    assert machine.parse_conda(Outcome(failure=stopped)) == stopped


def test_a_broken_spec_is_unavailable_and_none_is_not(tmp_path: Path) -> None:
    """A host never provisioned is no fault; a file cut off leaves the verdict open."""
    assert machine.read_spec(tmp_path) == SpecFile(str(tmp_path / "etc/runnerctl/host.json"))
    (tmp_path / "etc/runnerctl").mkdir(parents=True)
    (tmp_path / "etc/runnerctl/host.json").write_text('{"schema": "runnerctl.host/1", "host": ')
    broken = machine.read_spec(tmp_path)
    assert isinstance(broken, Unavailable)
    assert "host.json" in broken.reason
    (tmp_path / "etc/runnerctl/host.json").write_text('{"schema": "runnerctl.host/9", "host": "h"}')
    newer = machine.read_spec(tmp_path)
    assert isinstance(newer, Unavailable)
    assert "newer" in newer.reason


def test_filesystems_are_listed_once_per_device() -> None:
    """Four paths on one disk are one finding."""
    row = {
        "device": "8:1",
        "total_bytes": 10,
        "free_bytes": 5,
        "total_inodes": 2,
        "free_inodes": 1,
        "read_only": False,
    }
    rows = [{**row, "paths": ["/"]}, {**row, "paths": ["/opt"]}, {**row, "paths": ["/tmp"], "device": "8:2"}]
    found = system.parse_filesystems(Outcome(value=rows))
    assert isinstance(found, tuple)
    assert [filesystem.paths for filesystem in found] == [("/", "/opt"), ("/tmp",)]


def test_the_kernels_flag_decides_about_time() -> None:
    """Bit 0x40 of adjtimex's status; timesyncd's mark counts as well."""

    def synchronized(status: int, *services: str) -> bool:
        found = system.parse_time_sync(Outcome(value={"status": status, "services": list(services)}))
        assert not isinstance(found, Unavailable)
        return found.synchronized

    assert synchronized(0x2001)
    assert not synchronized(0x40)
    assert synchronized(0x40, "systemd-timesyncd")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"https_proxy": "http://proxy:3128", "HTTPS_PROXY": "http://other:1"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ({"http_proxy": "http://proxy:3128"}, None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "localhost, .github.com"}, None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "hub.com"}, "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128", "NO_PROXY": "*"}, None),
    ],
)
def test_the_proxy_of_the_environment(environ: dict[str, str], expected: str | None) -> None:
    """Lower case beats upper; no_proxy names hosts and domains, not endings of words."""
    assert network.proxy_for("https://api.github.com", environ) == expected


def test_a_failed_stage_is_a_fact() -> None:
    """The stage that failed and the words of the failure, without the number."""
    failure = Unavailable("OSError: [Errno 111] Connection refused", call="tcp")
    parts = ({"name": "dns", "seconds": 0.1},)
    api = network.parse_api("https://x", Outcome(parts=parts, failure=failure))
    assert (api.failed_stage, api.message) == ("tcp", "Connection refused")
    assert [stage.name for stage in api.stages] == ["dns"]


def test_the_clock_is_compared_with_the_date() -> None:
    """Half a second of a date's rounding is taken off."""
    local = datetime(2026, 11, 22, 9, 1, 0, tzinfo=timezone.utc)
    value = {
        "status": 200,
        "date": "Sun, 22 Nov 2026 09:00:00 GMT",
        "local_time": local.timestamp(),
        "proxy": False,
    }
    api = network.parse_api("https://api.example/x", Outcome(value=value))
    clock = network.clock_of((api,))
    assert clock == Clock(59.5, "api.example")
    assert isinstance(network.clock_of(()), Unavailable)


def test_which_apis_are_asked() -> None:
    """Each one once; the environment's beats the spec's; GitHub's own where nobody said."""
    spec, _ = host_spec(
        "h",
        {
            "github_runner_url": "https://github.com/o",
            "github_runner_slots": [
                {"name": "a"},
                {"name": "b"},
                {"name": "c", "url": "https://ghes.example/o"},
            ],
        },
    )
    assert api_urls_of(spec, {}) == ("https://api.github.com", "https://ghes.example/api/v3")
    assert api_urls_of(spec, {"RUNNERCTL_API_URL": "https://x"}) == ("https://x",)
    assert api_urls_of(None, {}) == ("https://api.github.com",)


def test_os_release() -> None:
    """Quotes go, comments and strange lines do not matter."""
    data = b'# c\nID=debian\nPRETTY_NAME="Debian GNU/Linux 12"\nnonsense\n'
    assert machine.parse_os_release(data) == {"ID": "debian", "PRETTY_NAME": "Debian GNU/Linux 12"}
