"""How containers get GPUs here, and whether the running ones still have them.

The known loss: ``systemctl daemon-reload`` writes a container's device rules anew from what systemd was told,
and where the GPUs had been added behind its back (or could not be named for want of ``/dev/char`` links) the
container is shut out of them while it runs on (see `runnerctl.probes.device_rules`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.driver_readings import ContainerGpus
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.device_rules import denied, tool_output
from runnerctl.probes.engine import engine_client, plain_reason
from runnerctl.probes.files import under

__all__ = ["parse_containers", "read_containers"]

_MAJOR = 195  # of /dev/nvidiaN and /dev/nvidiactl, fixed in the kernel's list
_MOST_CONTAINERS = 64
_NODE = re.compile(r"nvidia(?:\d+|ctl|-uvm|-uvm-tools|-modeset)")
_FIXED_MINORS = {"nvidiactl": 255, "nvidia-modeset": 254}


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
    report.stage("device rules")
    pids = {str(each["id"]): int(each["pid"]) for each in found}
    by_systemd = info.get("CgroupDriver") == "systemd"
    shut = denied(rootfs, pids, by_systemd=by_systemd, environ=environ)
    return {
        "runtime_configured": "nvidia" in (info.get("Runtimes") or {}),
        "cdi_enabled": bool(info.get("CDISpecDirs")) if "CDISpecDirs" in info else None,
        "cgroup_driver": info.get("CgroupDriver"),
        "toolkit_version": toolkit,
        "char_links_missing": missing,
        "containers": [
            {"id": each["id"], "name": each["name"], "denied": shut.get(each["id"])} for each in found
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
    text = tool_output(["/usr/bin/nvidia-ctk", "--version"], environ)
    found = re.search(r"version\s+(\d+\.\d+\.\d+\S*)", text)
    return found[1] if found else None


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
