"""What the guard has done by children: everything that asks systemd, the journal or the disk for long.

Each function runs in a child of `runnerctl.guard.errands` and returns plain data.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import HEALTH, Cause, Holds

from runnerctl.core.driver_readings import KernelLog
from runnerctl.core.kernel_lines import normal_pci
from runnerctl.core.spec import HostSpec
from runnerctl.core.xid_table import xid
from runnerctl.guard.claims import Asking, read_facts
from runnerctl.guard.ports import Cleaner, JobReport, Ledger, SlotPlace
from runnerctl.probes.bounded import Report

__all__ = [
    "begin",
    "clean_after",
    "clean_during",
    "close_open",
    "facts",
    "hold",
    "metrics",
    "result",
    "show_units",
    "update",
    "users",
    "which_hook",
    "xids",
]

_RESULT = re.compile(r"completed with result: ([A-Za-z]{1,40})\s*$")
_RESULT_SECONDS = 10.0
_LOG_SECONDS = 8.0
_TOOL_SECONDS = 5.0
_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_SLACK_SECONDS = 2.0


def show_units(report: Report, *, units: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Unit -> its main process and control group, of those that run. Raises OSError."""
    report.stage("systemctl show")
    command = ["systemctl", "show", "--no-pager", "--property=Id,MainPID,ControlGroup", "--", *units]
    found = {}
    for block in _output(command).strip().split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        pid = fields.get("MainPID", "0")
        if fields.get("ControlGroup") and pid.isdigit():
            found[fields.get("Id", "")] = (int(pid), fields["ControlGroup"])
    return found


def users(report: Report, *, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """User -> uid and gid, of those that there are; the name service may be slow."""
    report.stage("the users of the slots")
    found = {}
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        found[name] = (entry.pw_uid, entry.pw_gid)
    return found


def facts(report: Report, *, proc: str, asking: Asking, root: str, hook: str) -> Any:
    """What a hook's environment and event say (`claims.HookFacts`)."""
    report.stage("the environment of the hook")
    return msgspec.to_builtins(read_facts(Path(proc), asking, root=Path(root), hook=hook))


def which_hook(report: Report, *, proc: str, asking: Asking, hooks: Sequence[str]) -> str:
    """Which of the hooks a shell was started to run; empty for none of them. Raises OSError."""
    report.stage("the arguments of a shell")
    words = (Path(proc) / str(asking.shell) / "cmdline").read_bytes()[:65536].split(b"\0")[1:4]
    return next((hook for hook in hooks if hook.encode() in words), "")


def hold(report: Report, *, holds: Holds, slot: str, cause: tuple[str, tuple[str, ...]]) -> bool:
    """Put a slot on hold for its health and make that effective behind its job. Raises HostError."""
    report.stage("the hold")
    reason, gpus = cause
    since = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    changed = holds.add(slot, Cause(HEALTH, reason, since, gpus))
    holds.settle(slot)
    return changed


def clean_during(
    report: Report, *, cleaner: Callable[[], Cleaner], place: SlotPlace, spare: Sequence[int]
) -> Any:
    """See `ports.Cleaner.during`."""
    report.stage("removal of what the job left")
    return msgspec.to_builtins(cleaner().during(place, spare=tuple(spare)))


def clean_after(
    report: Report,
    *,
    cleaner: Callable[[], Cleaner],
    place: SlotPlace,
    listener: int,
    before: float,
    alone: bool,
) -> Any:
    """See `ports.Cleaner.after`."""
    report.stage("removal of what the job left")
    return msgspec.to_builtins(cleaner().after(place, listener=listener, before=before, alone=alone))


def begin(report: Report, *, ledger: Callable[[], Ledger], job: JobReport) -> int:
    """See `ports.Ledger.begin`."""
    report.stage("the job database")
    return ledger().begin(job)


def update(report: Report, *, ledger: Callable[[], Ledger], number: int, job: JobReport) -> bool:
    """See `ports.Ledger.update`."""
    report.stage("the job database")
    ledger().update(number, job)
    return True


def close_open(report: Report, *, ledger: Callable[[], Ledger], at: float) -> int:
    """See `ports.Ledger.close_open`."""
    report.stage("the job database")
    return ledger().close_open(at=at)


def metrics(report: Report, *, spec: HostSpec) -> None:
    """Write the metrics of jobs (`ledger_metrics.publish`). Raises RunnerctlError."""
    from runnerctl.guard.ledger_metrics import publish

    report.stage("the metrics of jobs")
    publish(spec, now=time.time())


def xids(report: Report, *, gpus: dict[str, str], since: float, root: str = "/") -> list[str]:
    """The Xids since a time (epoch) of these GPUs (PCI address -> name); of all GPUs where none is given.

    Raises OSError when the kernel log cannot be read.
    """
    from runnerctl.probes.kernel_log import read_kernel_log

    now = time.time()
    data = read_kernel_log(report, rootfs=Path(root), environ=_ENVIRON, now=now, timeout_seconds=_LOG_SECONDS)
    if data is None:
        return []
    log = msgspec.convert(data, KernelLog, strict=False)
    wanted = {normal_pci(pci): name for pci, name in gpus.items()}
    found = []
    for event in log.events:
        pci = normal_pci(event.pci)
        late = event.time.timestamp() >= since - 1.0 and event.kind == "xid" and event.code is not None
        if late and (not wanted or pci in wanted):
            meaning = xid(event.code or 0).meaning
            found.append(f"Xid {event.code} on {wanted.get(pci) or pci or 'a GPU'}: {meaning}")
    return list(dict.fromkeys(found))[:50]


def result(report: Report, *, unit: str, listener: int, since: float, until: float) -> str | None:
    """What the listener itself wrote of its job's end in the journal; None when it wrote nothing in time.

    A job writes to the journal as its unit does; who wrote a line, journald knows
    (systemd.journal-fields(7)). A listener has one job at a time: the first end that it tells after this
    job's begin is this job's.
    """
    report.stage("journalctl")
    command = ["journalctl", "--no-pager", "--quiet", "--output=json", "--output-fields=MESSAGE"]
    command += [f"--since=@{int(max(since, until - _SLACK_SECONDS))}"]
    command += [f"_SYSTEMD_UNIT={unit}", f"_PID={listener}"]
    end = time.monotonic() + _RESULT_SECONDS
    while True:
        for line in _output(command).splitlines():
            if found := _result_in(line, since=since, until=until + _SLACK_SECONDS):
                return found
        if time.monotonic() >= end:
            return None
        time.sleep(0.5)


def _result_in(line: str, *, since: float, until: float) -> str | None:
    """The result that a line tells; a name that cannot be printed makes its text a list of bytes."""
    try:
        row = json.loads(line)
        message, stamp = row["MESSAGE"], int(row["__REALTIME_TIMESTAMP"])
        message = bytes(message).decode("utf-8", "replace") if isinstance(message, list) else message
    except (ValueError, KeyError, TypeError):
        return None
    if not since * 1e6 <= stamp <= until * 1e6:
        return None
    found = _RESULT.search(message) if isinstance(message, str) else None
    return found[1] if found else None


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        env={**_ENVIRON, **{name: os.environ[name] for name in ("PATH",) if name in os.environ}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TOOL_SECONDS,
        check=False,
    )
    if done.returncode and not done.stdout:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise OSError(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout.decode("utf-8", "replace")
