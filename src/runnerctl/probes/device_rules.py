"""Whether a control group's device rules still let its processes open a GPU.

Under version 1 of control groups the kernel lists the rules. Under version 2 they are a program that cannot
be read; so a short-lived child of ours enters the group and opens ``/dev/nvidiactl``, which starts no GPU.
It is tried only where systemd was not told of the GPUs, for then the next daemon-reload takes them away, or
the last one has.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from runnerctl.probes.files import read_bytes, read_line, under
from runnerctl.probes.kernels import text_of

__all__ = ["allows_gpus", "denied", "tool_output"]

_MAJOR = 195  # of /dev/nvidiaN and /dev/nvidiactl, fixed in the kernel's list
_ALLOWS = re.compile(rf"^(?:a \*:\*|c \*:\*|c {_MAJOR}:(?!25[45] )\S+) \w*[rw]", re.MULTILINE)
_NAMES_GPU = re.compile(rf"/dev/char/{_MAJOR}:(?!25[45]$)|char-nvidia|char-\*|/dev/nvidia\d")
_ID = re.compile(r"[0-9a-f]{64}")
_CONTROL = "/dev/nvidiactl"
_TOOL_SECONDS = 3.0
_TRY_SECONDS = 1.0
_OPENED, _REFUSED, _UNTOLD = range(3)


def tool_output(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """What a tool prints; nothing when it fails or takes longer than 3 s."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            list(command),
            env={**environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TOOL_SECONDS,
            check=False,
        )
        return done.stdout.decode("utf-8", "replace")
    return ""


def denied(
    rootfs: Path, pids: Mapping[str, int], *, by_systemd: bool, environ: Mapping[str, str]
) -> dict[str, bool]:
    """Container id -> shut out of GPUs or not; those of which it cannot be told are left out.

    ``pids`` gives the first process of each container. ``by_systemd``: the Engine's control groups are
    systemd's scopes.
    """
    told = {}
    for name, pid in pids.items():
        if (rules := _rules(rootfs, pid)) is not None:
            told[name] = not allows_gpus(rules)
    rest = [name for name in pids if name not in told]
    if by_systemd and rootfs == Path("/"):
        told |= dict.fromkeys(_named_to_systemd(rest, environ), False)
    for name in rest:
        if name not in told and (shut := _shut_out(rootfs, pids[name])) is not None:
            told[name] = shut
    return told


def allows_gpus(rules: str) -> bool:
    """Whether device rules let a GPU be opened: ``c 195:* rw``, ``c 195:0 rwm``, ``a *:* rwm``."""
    return _ALLOWS.search(rules) is not None


def _rules(rootfs: Path, pid: int) -> str | None:
    """``devices.list`` of the process's control group (version 1); None under version 2."""
    found = re.search(r"^\d+:(?:[\w,=]+,)?devices(?:,[\w,=]+)?:(/\S*)$", _groups(rootfs, pid), re.MULTILINE)
    if not found:
        return None
    data = read_bytes(under(rootfs, f"/sys/fs/cgroup/devices{found[1]}/devices.list"))
    return data.decode("ascii", "replace") if isinstance(data, bytes) and data.strip() else None


def _groups(rootfs: Path, pid: int) -> str:
    return text_of(under(rootfs, f"/proc/{pid}/cgroup")) if pid > 0 else ""


def _named_to_systemd(ids: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Containers whose scope has rules for GPUs: those that a daemon-reload leaves alone."""
    scopes = {f"docker-{each}.scope": each for each in ids if _ID.fullmatch(each)}
    if not scopes:
        return []
    properties = "--property=Id,LoadState,DevicePolicy,DeviceAllow"
    text = tool_output(["systemctl", "show", "--no-pager", properties, *scopes], environ)
    named = []
    for block in re.split(r"\n\s*\n", text):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        allowed = re.findall(r"^DeviceAllow=(\S+)", block, re.MULTILINE)
        safe = any(map(_NAMES_GPU.match, allowed)) or (not allowed and fields.get("DevicePolicy") == "auto")
        scope = scopes.get(fields.get("Id", ""))
        if scope and safe and fields.get("LoadState") == "loaded":
            named.append(scope)
    return named


def _shut_out(rootfs: Path, pid: int) -> bool | None:
    """Try it from within the group (version 2). A frozen group is left alone: whoever enters it stays."""
    found = re.search(r"^0::(/\S+)$", _groups(rootfs, pid), re.MULTILINE)
    if not found or not under(rootfs, _CONTROL).exists():
        return None
    group = under(rootfs, f"/sys/fs/cgroup{found[1]}")
    if read_line(group / "cgroup.freeze") == "1":
        return None
    child = os.fork()
    if child == 0:
        code = _UNTOLD
        try:
            code = _try(group / "cgroup.procs", under(rootfs, _CONTROL))
        finally:
            os._exit(code)
    ended = _waited(child)
    return {_OPENED: False, _REFUSED: True}.get(_UNTOLD if ended is None else ended)


def _try(procs: Path, node: Path) -> int:
    """In the child: enter the group, open the node. Only a refusal by rules (EPERM) is a refusal."""
    signal.alarm(int(_TRY_SECONDS) + 1)
    procs.write_text("0")
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return _REFUSED if error.errno == errno.EPERM else _UNTOLD
    return _OPENED


def _waited(child: int) -> int | None:
    """The child's exit code, or None when it did not end in time: then it is killed."""
    end = time.monotonic() + _TRY_SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            break
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return None
