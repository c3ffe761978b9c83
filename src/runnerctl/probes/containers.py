"""How containers get GPUs here, and whether the running ones still have them.

The known loss: ``systemctl daemon-reload`` writes a container's device rules anew from what systemd was told,
and where the GPUs had been added behind its back (or could not be named for want of ``/dev/char`` links) the
container is shut out of them while it runs on. Read only: nothing is started in a container.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.driver_readings import ContainerGpus
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.engine import engine_client, plain_reason
from runnerctl.probes.files import read_bytes, under
from runnerctl.probes.kernels import text_of

__all__ = ["allows_gpus", "parse_containers", "read_containers"]

_MAJOR = 195  # of /dev/nvidiaN and /dev/nvidiactl, fixed in the kernel's list
_MOST_CONTAINERS = 64
_TOOL_SECONDS = 3.0
_NODE = re.compile(r"nvidia(?:\d+|ctl|-uvm|-uvm-tools|-modeset)")
_FIXED_MINORS = {"nvidiactl": 255, "nvidia-modeset": 254}
_ALLOWS = re.compile(rf"^(?:a \*:\*|c \*:\*|c {_MAJOR}:(?!25[45] )\S+) \w*[rw]", re.MULTILINE)
_NAMES_GPU = re.compile(rf"/dev/char/{_MAJOR}:(?!25[45]$)|char-nvidia|char-\*|/dev/nvidia\d")
_ID = re.compile(r"[0-9a-f]{64}")


def read_containers(
    report: Report, *, rootfs: Path, environ: Mapping[str, str], timeout_seconds: float
) -> dict[str, Any]:
    """Everything of `ContainerGpus` as plain data. Raises what the Engine's SDK raises."""
    report.stage("/dev/char")
    missing = _char_links_missing(rootfs)
    report.stage("nvidia-ctk --version")
    toolkit = _toolkit_version(rootfs, environ)
    client = engine_client(report, environ=environ, timeout_seconds=timeout_seconds)
    report.stage("info")
    info = client.info()
    report.stage("containers")
    found = _with_gpus(client, report)
    denied = _denied(rootfs, found, str(info.get("CgroupDriver")), environ)
    return {
        "runtime_configured": "nvidia" in (info.get("Runtimes") or {}),
        "cdi_enabled": bool(info.get("CDISpecDirs")) if "CDISpecDirs" in info else None,
        "cgroup_driver": info.get("CgroupDriver"),
        "toolkit_version": toolkit,
        "char_links_missing": missing,
        "containers": [
            {"id": each["id"], "name": each["name"], "denied": denied.get(each["id"])} for each in found
        ],
    }


def parse_containers(outcome: Outcome) -> ContainerGpus | Unavailable:
    """The reading; an Engine that does not answer is none, and docker.engine says so."""
    failure = outcome.failure
    if failure is None:
        return msgspec.convert({"reading": "taken", **outcome.value}, ContainerGpus)
    return msgspec.structs.replace(failure, reason=plain_reason(failure.reason))


# ---- the host --------------------------------------------------------------------------------------


def _char_links_missing(rootfs: Path) -> list[str]:
    """``/dev/char/195:0`` and so on, for each of the driver's nodes that has no such link."""
    try:
        names = sorted(os.listdir(under(rootfs, "/dev")))
    except OSError:
        return []
    links = (_char_link(under(rootfs, "/dev") / name, name) for name in names if _NODE.fullmatch(name))
    return [link for link in links if link and not os.path.lexists(under(rootfs, link))]


def _char_link(path: Path, name: str) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    if stat.S_ISCHR(status.st_mode):
        return f"/dev/char/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    number = name.removeprefix("nvidia")  # a saved tree has plain files for nodes
    minor = int(number) if number.isdigit() else _FIXED_MINORS.get(name)
    return None if minor is None else f"/dev/char/{_MAJOR}:{minor}"


def _toolkit_version(rootfs: Path, environ: Mapping[str, str]) -> str | None:
    if rootfs != Path("/") or not Path("/usr/bin/nvidia-ctk").exists():
        return None
    text = _output(["/usr/bin/nvidia-ctk", "--version"], environ)
    found = re.search(r"version\s+(\d+\.\d+\.\d+\S*)", text)
    return found[1] if found else None


def _output(command: list[str], environ: Mapping[str, str]) -> str:
    """What a tool prints; nothing when it fails or takes too long."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command,
            env={**environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TOOL_SECONDS,
            check=False,
        )
        return done.stdout.decode("utf-8", "replace")
    return ""


# ---- containers ------------------------------------------------------------------------------------


def _with_gpus(client: Any, report: Report) -> list[dict[str, Any]]:
    """Id, name and first process of each running container that was given GPUs."""
    found = []
    for each in client.api.containers()[:_MOST_CONTAINERS]:
        report.stage("inspection of a container")
        try:
            shown = client.api.inspect_container(each["Id"])
        except OSError:  # the SDK's errors are such; it has ended meanwhile
            continue
        if _has_gpus(shown):
            pid = (shown.get("State") or {}).get("Pid") or 0
            name = str(shown.get("Name", "")).lstrip("/")
            found.append({"id": str(shown["Id"]), "name": name, "pid": pid})
    return found


def _has_gpus(shown: Mapping[str, Any]) -> bool:
    host = shown.get("HostConfig") or {}
    for request in host.get("DeviceRequests") or ():
        asked = {name for group in request.get("Capabilities") or () for name in group}
        ids = " ".join(request.get("DeviceIDs") or ())
        if "gpu" in asked or request.get("Driver") == "nvidia" or "nvidia.com/gpu" in ids:
            return True
    paths = (str(device.get("PathOnHost", "")) for device in host.get("Devices") or ())
    if any(_NODE.fullmatch(path.removeprefix("/dev/")) for path in paths):
        return True
    variables = dict(each.partition("=")[::2] for each in (shown.get("Config") or {}).get("Env") or ())
    given = variables.get("NVIDIA_VISIBLE_DEVICES", "")
    return host.get("Runtime") == "nvidia" and given not in ("", "void", "none")


# ---- their device rules ----------------------------------------------------------------------------


def _denied(
    rootfs: Path, found: list[dict[str, Any]], driver: str, environ: Mapping[str, str]
) -> dict[str, bool]:
    """Container id -> shut out of its GPUs or not; those of which it cannot be told are left out."""
    told = {}
    for each in found:
        rules = _rules_v1(rootfs, each["pid"])
        if rules is not None:
            told[each["id"]] = not allows_gpus(rules)
    rest = [each["id"] for each in found if each["id"] not in told and _ID.fullmatch(each["id"])]
    if rest and driver == "systemd" and rootfs == Path("/"):
        told |= _denied_by_systemd(rest, environ)
    return told


def _rules_v1(rootfs: Path, pid: int) -> str | None:
    """``devices.list`` of the process's control group (version 1); None under version 2."""
    groups = text_of(under(rootfs, f"/proc/{pid}/cgroup")) if pid else ""
    found = re.search(r"^\d+:(?:[\w,=]+,)?devices(?:,[\w,=]+)?:(/\S*)$", groups, re.MULTILINE)
    if not found:
        return None
    data = read_bytes(under(rootfs, f"/sys/fs/cgroup/devices{found[1]}/devices.list"))
    return data.decode("ascii", "replace") if isinstance(data, bytes) and data.strip() else None


def allows_gpus(rules: str) -> bool:
    """Whether device rules let a GPU be opened: ``c 195:* rw``, ``c 195:0 rwm``, ``a *:* rwm``."""
    return _ALLOWS.search(rules) is not None


def _denied_by_systemd(ids: Iterable[str], environ: Mapping[str, str]) -> dict[str, bool]:
    """What systemd would write, and whether it has written it since the container was started.

    Rules that name the GPUs survive a daemon-reload. Others are lost at the first one after the start.
    """
    properties = "--property=Id,LoadState,DevicePolicy,DeviceAllow,ActiveEnterTimestampMonotonic"
    scopes = {f"docker-{each}.scope": each for each in ids}
    text = _output(["systemctl", "show", "--no-pager", properties, *scopes], environ)
    manager = ["systemctl", "show", "--no-pager", "--property=UnitsLoadFinishTimestampMonotonic"]
    reloaded = _number(_fields(_output(manager, environ)).get("UnitsLoadFinishTimestampMonotonic"))
    told = {}
    for block in re.split(r"\n\s*\n", text):
        fields = _fields(block)
        scope = scopes.get(fields.get("Id", ""))
        if scope is None or fields.get("LoadState") != "loaded":
            continue
        started = _number(fields.get("ActiveEnterTimestampMonotonic"))
        if _systemd_allows(block, fields):
            told[scope] = False
        elif reloaded and started:
            told[scope] = reloaded > started
    return told


def _systemd_allows(block: str, fields: Mapping[str, str]) -> bool:
    allowed = re.findall(r"^DeviceAllow=(\S+)", block, re.MULTILINE)
    if not allowed:
        return fields.get("DevicePolicy") == "auto"
    return any(_NAMES_GPU.match(each) for each in allowed)


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
