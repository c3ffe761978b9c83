"""Who holds the driver's devices open, on process tables made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runnerctl.core.driver_readings import Residue, ResidueProcess
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.bounded import Outcome, Report, Task, run_all
from runnerctl.probes.residue import parse_residue, read_residue

SLOT = "/system.slice/system-gha\\x2drunner.slice/gha-runner@gpu-1.service"
CONTAINER = "/system.slice/docker-1f3a.scope"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with a driver and no process."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def process(root: Path, pid: int, *targets: str, comm: str = "python3", cgroup: str = "/user.slice") -> Path:
    """One process and its open files."""
    folder = root / f"proc/{pid}"
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{comm}\n")
    (folder / "cgroup").write_text(f"0::{cgroup}\n")
    (folder / "stat").write_text(f"{pid} ({comm}) S 1 0 0\n")
    for number, target in enumerate(targets):
        (folder / "fd" / str(number)).symlink_to(target)
    return folder


def taken(root: Path) -> Residue:
    """The reading, as the health verdict gets it: through a bounded child."""
    outcome = run_all({"residue": Task(lambda report: read_residue(report, rootfs=root), 10.0)})["residue"]
    found = parse_residue(outcome)
    assert isinstance(found, Residue), found
    return found


def test_holders_are_found_with_their_slot_or_container(root: Path) -> None:
    """Only devices of the driver count, each once; control groups say whose process it is."""
    process(root, 1, "/dev/null", "socket:[1]", "/home/dev/nvidia0", comm="init")
    devices = ("/dev/nvidia0", "/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-caps/nvidia-cap1", "pipe:[5]")
    process(root, 20, *devices, cgroup=SLOT)
    process(root, 30, "/dev/nvidia1 (deleted)", cgroup=CONTAINER, comm="a) b")
    process(root, 40, "/dev/nvidia1", cgroup=f"{SLOT}/docker-77.scope")
    found = taken(root)
    assert found.complete
    assert found.processes == (
        ResidueProcess(
            20,
            "python3",
            ("/dev/nvidia-caps/nvidia-cap1", "/dev/nvidia0", "/dev/nvidiactl"),
            "gpu-1",
            False,
            "S",
        ),
        ResidueProcess(30, "a) b", ("/dev/nvidia1",), None, True, "S"),
        ResidueProcess(40, "python3", ("/dev/nvidia1",), "gpu-1", True, "S"),
    )


@pytest.mark.parametrize(
    "cgroup",
    [
        "/docker/0a1b",
        "/machine.slice/libpod-0a1b.scope",
        "/kubepods.slice/kubepods-burstable.slice/cri-containerd-0a1b.scope",
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-0a1b.scope/container",
        "/lxc.payload.web/system.slice/x.service",
    ],
)
def test_containers_of_all_engines_are_told(root: Path, cgroup: str) -> None:
    """A job in a container is no leftover of a slot."""
    process(root, 20, "/dev/nvidia0", cgroup=cgroup)
    (found,) = taken(root).processes
    assert found.container and found.slot is None


@pytest.mark.parametrize("cgroup", ["/system.slice/docker.service", "/system.slice/containerd.service", "/"])
def test_an_engine_itself_is_no_container(root: Path, cgroup: str) -> None:
    """Nor is the host."""
    process(root, 20, "/dev/nvidia0", cgroup=cgroup)
    (found,) = taken(root).processes
    assert not found.container


def test_old_control_groups_name_the_slot_too(root: Path) -> None:
    """Version 1: one line a controller."""
    folder = process(root, 20, "/dev/nvidia0")
    (folder / "cgroup").write_text(f"5:devices:{SLOT}\n1:name=systemd:{SLOT}\n")
    (found,) = taken(root).processes
    assert found.slot == "gpu-1"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_make_it_incomplete(root: Path) -> None:
    """Then nobody may say that memory has no owner."""
    (process(root, 20) / "fd").chmod(0)
    assert not taken(root).complete


def test_denied_files_make_it_incomplete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for whoever runs this."""
    process(root, 20, "/dev/nvidia0")
    process(root, 21, "/dev/nvidia0")
    readlink = os.readlink

    def denied(path: Path) -> str:
        if "/20/" in str(path):
            raise PermissionError(13, "Permission denied")
        return readlink(path)

    monkeypatch.setattr(os, "readlink", denied)
    found = taken(root)
    assert not found.complete
    assert [each.pid for each in found.processes] == [21]


def test_a_process_that_ends_meanwhile_is_left_out(root: Path) -> None:
    """Its folder is there, its files are not."""
    (root / "proc/99").mkdir()
    found = taken(root)
    assert found.complete and not found.processes


def test_without_the_drivers_devices_nothing_is_searched(root: Path) -> None:
    """A host without GPUs pays nothing."""
    (root / "dev/nvidiactl").unlink()
    process(root, 20, "/dev/nvidia0")
    assert taken(root) == Residue()


def test_without_a_process_table_it_is_incomplete(root: Path) -> None:
    """A mounted file system."""
    (root / "proc/self").rmdir()
    assert not taken(root).complete


def test_why_there_is_no_reading() -> None:
    """A scan that hangs is not known, and not nothing."""
    late = Unavailable("open files of all processes did not return within 5.0 s", kind="timeout")
    assert parse_residue(Outcome(failure=late)) == late


def test_this_machine() -> None:
    """The real process table, whatever it holds."""
    read, write = os.pipe()
    try:
        assert read_residue(Report(write), rootfs=Path("/"))["processes"] is not None
    finally:
        os.close(read)
        os.close(write)
