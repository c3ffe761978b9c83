"""What a slot's jobs may reach, and the verdict on what they did reach. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from runnerctl.core.findings import Finding

__all__ = [
    "SCHEMA",
    "SETTINGS",
    "TITLES",
    "Attempt",
    "Status",
    "Tried",
    "judge_status",
    "judge_tried",
]

SCHEMA = "runnerctl.isolation/1"
Expect = Literal["blocked", "allowed", "any"]
TITLES: Mapping[str, str] = {
    "devices": "device nodes",
    "files": "files of others",
    "processes": "processes of others",
    "sockets": "sockets of services",
    "writes": "writing what is not the job's",
    "limits": "lifting limits",
    "privileges": "becoming more than the slot's user",
}
# As ``systemctl show`` prints what our units set; what an older systemd does not know it does not print.
SETTINGS: Mapping[str, str] = {
    "DevicePolicy": "closed",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateIPC": "yes",
    "PrivateUsers": "yes",
    "RemoveIPC": "yes",
    "KeyringMode": "private",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
}
_REMEDY = "`systemctl cat {unit}` shows what was added to the unit; take it away, or provision again"
_OPENED_REMEDY = "`runnerctl isolation devices {slot} --apply`, then restart the slot when it is idle"
_MOST_NAMED = 5


class Attempt(msgspec.Struct, frozen=True):
    """Something to try: ``area`` is the finding it belongs to, ``what`` how the finding names it."""

    area: str
    kind: str
    target: str
    expect: Expect = "blocked"
    what: str = ""

    @property
    def name(self) -> str:
        """As a finding names it."""
        return self.what or f"{self.kind} {self.target}".strip()


class Tried(msgspec.Struct, frozen=True):
    """An attempt and what became of it: allowed, blocked or absent; ``said`` is the kernel's word."""

    attempt: Attempt
    outcome: str
    said: str = ""

    @property
    def reached(self) -> bool:
        """What must not be reached was."""
        return self.outcome == "allowed" and self.attempt.expect == "blocked"

    @property
    def lacking(self) -> bool:
        """What must be reached was not."""
        return self.outcome != "allowed" and self.attempt.expect == "allowed"


class Status(msgspec.Struct, frozen=True):
    """Of a process: whose it is, and what it may do. ``filtered``: its system calls are."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    no_new_privileges: bool = False
    filtered: bool = False
    capabilities: int = 0
    bounding: int = 0


def judge_tried(slot: str, unit: str, tried: Sequence[Tried]) -> list[Finding]:
    """One finding for each area: CRITICAL names what was reached."""
    return [
        _area(area, slot, unit, [each for each in tried if each.attempt.area == area])
        for area in TITLES
        if any(each.attempt.area == area for each in tried)
    ]


def _area(area: str, slot: str, unit: str, tried: list[Tried]) -> Finding:
    reached = [each for each in tried if each.reached]
    lacking = [each for each in tried if each.lacking]
    data = {
        "tried": len(tried),
        "allowed": [each.attempt.name for each in tried if each.outcome == "allowed"],
        "reached": [each.attempt.name for each in reached],
        "lacking": [each.attempt.name for each in lacking],
    }
    name = f"isolation.{area}"
    if reached:
        summary = f"within reach: {_named(each.attempt.name for each in reached)}"
        return Finding(name, "CRITICAL", slot, summary, _REMEDY.format(unit=unit), data)
    if lacking:
        summary = f"its own, and out of reach: {_named(_why(each) for each in lacking)}"
        return Finding(name, "CRITICAL", slot, summary, _OPENED_REMEDY.format(slot=slot), data)
    opened = sum(each.outcome == "allowed" for each in tried if each.attempt.expect == "allowed")
    own = f", {opened} of its own allowed" if opened else ""
    return Finding(name, "OK", slot, f"{TITLES[area]}: {len(tried)} attempts, none succeeded{own}", "", data)


def _why(each: Tried) -> str:
    return f"{each.attempt.name} ({each.said})"


def _named(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    more = len(listed) - _MOST_NAMED
    return ", ".join(listed[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def judge_status(slot: str, unit: str, found: Mapping[int, Status], *, uid: int, engine: bool) -> Finding:
    """What the kernel says of every process of a unit.

    Those of a container engine are other users, and have capabilities, in user namespaces of their own.
    """
    wrong: list[str] = []
    for pid, status in found.items():
        if status.uid != uid and not engine:
            wrong.append(f"process {pid} is user {status.uid}")
        if status.capabilities and not engine:
            wrong.append(f"process {pid} has capabilities")
        if not status.filtered:
            wrong.append(f"process {pid} has no filter of system calls")
        if (status.bounding and not engine) or not status.no_new_privileges:
            wrong.append(f"process {pid} may gain privileges")
    data = {"processes": len(found), "wrong": wrong[:20]}
    if wrong:
        return Finding("isolation.kernel", "CRITICAL", slot, _named(wrong), _REMEDY.format(unit=unit), data)
    summary = f"the kernel holds all {len(found)} processes of the unit to its rules"
    return Finding("isolation.kernel", "OK", slot, summary, "", data)
