"""Containers with GPUs: an Engine that speaks HTTP, systemd's tools on PATH, control groups in a tree."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.driver_readings import ContainerGpus, OpenContainer
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes import containers
from runnerctl.probes.bounded import Task, run_all
from tests.component.engine_support import serving_engine

INFO = {"Runtimes": {"runc": {}, "nvidia": {}}, "CgroupDriver": "systemd", "CDISpecDirs": ["/etc/cdi"]}
PLAIN, BY_REQUEST, BY_DEVICE, BY_ENV, BY_CDI, GONE = (f"{number}" * 64 for number in range(6))
SHOWN: dict[str, dict[str, Any]] = {
    PLAIN: {"Name": "/plain", "HostConfig": {"Runtime": "runc"}, "Config": {"Env": None}},
    BY_REQUEST: {
        "Name": "/asked",
        "HostConfig": {"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]},
    },
    BY_DEVICE: {"Name": "/device", "HostConfig": {"Devices": [{"PathOnHost": "/dev/nvidia0"}]}},
    BY_ENV: {
        "Name": "/variable",
        "HostConfig": {"Runtime": "nvidia"},
        "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=all"]},
    },
    BY_CDI: {
        "Name": "/cdi",
        "HostConfig": {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}]},
    },
}


PID = 99_999_999  # of each container's first process; none on the machine that runs the tests


def _answer(path: str) -> Any:
    """What the Engine says of a path."""
    answers: Mapping[str, Any] = {
        "/_ping": "OK",
        "/version": {"Version": "29.1.0", "ApiVersion": "1.52"},
        "/info": INFO,
        "/containers/json": [{"Id": name} for name in (*SHOWN, GONE)],
    }
    one = path.removeprefix("/containers/").removesuffix("/json")
    return {"Id": one, "State": {"Pid": PID}, **SHOWN[one]} if one in SHOWN else answers.get(path)


@pytest.fixture
def docker_host() -> Iterator[str]:
    """An Engine with six containers, one of which ends before it can be inspected."""
    with serving_engine(_answer) as address:
        yield address


def _tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def _read(host: str, root: Path, tools: Path) -> ContainerGpus | Unavailable:
    environ = {"DOCKER_HOST": host, "PATH": f"{tools}:{os.environ['PATH']}"}
    call = partial(containers.read_containers, rootfs=root, environ=environ, timeout_seconds=5)
    return containers.parse_containers(run_all({"it": Task(call, 15)})["it"])


def _found(reading: ContainerGpus | Unavailable) -> dict[str, bool | None]:
    assert isinstance(reading, ContainerGpus), reading
    return {each.name: each.denied for each in reading.containers}


def test_containers_with_gpus_are_found_however_they_got_them(docker_host: str, tmp_path: Path) -> None:
    """By request, by device, by the runtime's variable, by a CDI name; others are left out."""
    reading = _read(docker_host, tmp_path, tmp_path / "bin")
    assert _found(reading) == {"asked": None, "device": None, "variable": None, "cdi": None}
    assert isinstance(reading, ContainerGpus)
    assert (reading.runtime_configured, reading.cdi_enabled, reading.cgroup_driver) == (True, True, "systemd")


@pytest.mark.parametrize(
    ("rules", "denied"),
    [
        ("c 1:3 rwm\nc 195:* rwm\nc 195:255 rw\n", False),
        ("c 195:0 rw\n", False),
        ("a *:* rwm\n", False),
        ("c 1:3 rwm\nc 136:* rwm\n", True),
        ("c 195:255 rw\nc 1:3 rwm\n", True),
        ("c *:* m\nb *:* m\nc 1:3 rwm\n", True),
        (None, None),
    ],
)
def test_the_kernels_own_list(
    docker_host: str, tmp_path: Path, rules: str | None, denied: bool | None
) -> None:
    """Version 1 of control groups: what is in devices.list counts; mknod alone opens nothing."""
    process = tmp_path / f"proc/{PID}"
    process.mkdir(parents=True)
    (process / "cgroup").write_text("12:memory:/docker/x\n5:devices:/docker/x\n0::/\n")
    group = tmp_path / "sys/fs/cgroup/devices/docker/x"
    group.mkdir(parents=True)
    if rules is not None:
        (group / "devices.list").write_text(rules)
    assert _found(_read(docker_host, tmp_path, tmp_path / "bin"))["asked"] is denied


UNITS = f"""
cat <<END
Id=docker-{BY_REQUEST}.scope
LoadState=loaded
DevicePolicy=strict
DeviceAllow=/dev/char/136:* rwm
DeviceAllow=/dev/char/195:0 rw

Id=docker-{BY_DEVICE}.scope
LoadState=loaded
DevicePolicy=strict
DeviceAllow=/dev/char/1:3 rwm
DeviceAllow=/dev/char/195:255 rw

Id=docker-{BY_ENV}.scope
LoadState=loaded
DevicePolicy=auto

Id=docker-{BY_CDI}.scope
LoadState=not-found
DevicePolicy=auto
END
"""


def test_what_systemd_was_told(docker_host: str, tmp_path: Path) -> None:
    """Named to systemd, or without rules: kept. Of the others the process that would tell is not there."""
    _tool(tmp_path / "bin", "systemctl", UNITS)
    found = _found(_read(docker_host, Path("/"), tmp_path / "bin"))
    assert found == {"asked": False, "device": None, "variable": False, "cdi": None}


@pytest.mark.parametrize(("error", "denied"), [(errno.EPERM, True), (None, False), (errno.EIO, None)])
def test_a_group_of_version_2_is_tried(
    docker_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None, denied: bool | None
) -> None:
    """A refusal is one only by the rules; the child really enters the group."""
    group = _version_2(tmp_path)
    opened = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if error is not None and str(path).endswith("nvidiactl"):
            raise OSError(error, os.strerror(error))
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    assert _found(_read(docker_host, tmp_path, tmp_path / "bin"))["asked"] is denied
    assert (group / "cgroup.procs").read_text() == "0"


def test_a_frozen_group_is_left_alone(docker_host: str, tmp_path: Path) -> None:
    """Whoever enters it stays."""
    group = _version_2(tmp_path)
    (group / "cgroup.freeze").write_text("1\n")
    assert _found(_read(docker_host, tmp_path, tmp_path / "bin"))["asked"] is None
    assert not (group / "cgroup.procs").exists()


def _version_2(root: Path) -> Path:
    (root / f"proc/{PID}").mkdir(parents=True)
    (root / f"proc/{PID}/cgroup").write_text("0::/system.slice/docker-x.scope\n")
    (root / "dev").mkdir()
    (root / "dev/nvidiactl").write_text("")
    group = root / "sys/fs/cgroup/system.slice/docker-x.scope"
    group.mkdir(parents=True)
    return group


def test_systemctl_that_fails_leaves_it_untold(docker_host: str, tmp_path: Path) -> None:
    """No answer is no alarm."""
    _tool(tmp_path / "bin", "systemctl", "exit 1")
    assert set(_found(_read(docker_host, Path("/"), tmp_path / "bin")).values()) == {None}


def test_links_for_device_nodes(docker_host: str, tmp_path: Path) -> None:
    """Each node of the driver wants its link; other nodes do not."""
    (tmp_path / "dev/char").mkdir(parents=True)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / "dev" / name).write_text("")
    (tmp_path / "dev/char/195:1").symlink_to("../nvidia1")
    reading = _read(docker_host, tmp_path, tmp_path / "bin")
    assert isinstance(reading, ContainerGpus)
    assert reading.char_links_missing == ("/dev/char/195:0", "/dev/char/195:255")


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    """No reading, in words that a person understands."""
    reading = _read(f"unix://{tmp_path}/docker.sock", tmp_path, tmp_path / "bin")
    assert isinstance(reading, Unavailable)
    assert (reading.call, reading.reason) == ("ping", "no such file or directory at its socket")


def test_a_container_is_known_by_id_and_name(docker_host: str, tmp_path: Path) -> None:
    """What a finding needs."""
    reading = _read(docker_host, tmp_path, tmp_path / "bin")
    assert isinstance(reading, ContainerGpus)
    assert OpenContainer(BY_REQUEST, "asked", None) in reading.containers
