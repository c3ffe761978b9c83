"""The slots of this host, as its files, systemd and the process table show them. It only reads."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runnerctl.cli.context import Context, Paths
from runnerctl.core.labels import ARCHITECTURES
from runnerctl.core.spec import HostSpec, Slot
from runnerctl.errors import ConfigError

__all__ = [
    "LocalSlot",
    "busy_units",
    "local_slots",
    "require_slot",
    "slot_names",
    "unit_name",
    "unit_properties",
]

SYSTEMCTL_SECONDS = 5.0
_UNITS = {"persistent": "gha-runner@{}.service", "ephemeral": "gha-ephemeral@{}.service"}
WORKER = "Runner.Worker"  # the process that runs a job (actions/runner: the listener starts one per job)


@dataclass(frozen=True)
class LocalSlot:
    """One slot as it stands on the host. None: not known."""

    name: str
    runner_name: str | None = None
    url: str | None = None
    labels: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    agent_id: int | None = None
    version: str | None = None
    unit_state: str | None = None
    busy: bool | None = None
    hold_reason: str | None = None
    restart_pending: bool = False
    in_spec: bool = False
    mode: str = "persistent"

    @property
    def unit(self) -> str:
        """The slot's systemd unit."""
        return _UNITS.get(self.mode, _UNITS["persistent"]).format(self.name)


def unit_name(paths: Paths, slot: str) -> str:
    """The systemd unit that runs a slot's listener on this host, in the mode that it has there."""
    mode = _state(paths.state / "slots" / f"{slot}.json").get("mode")
    return _UNITS[mode if mode in _UNITS else "persistent"].format(slot)


def slot_names(paths: Paths, spec: HostSpec | None) -> list[str]:
    """Every slot that the spec names or that left a trace on the host; those of the spec first."""
    wanted = [slot.name for slot in spec.github_runner.slots] if spec else []
    found = [path.stem for path in _entries(paths.state / "slots") if path.suffix == ".json"]
    found += [path.name for path in _entries(paths.slots)]
    return list(dict.fromkeys([*wanted, *sorted(found)]))


def require_slot(paths: Paths, spec: HostSpec | None, name: str) -> None:
    """Raise ConfigError with the slots that exist when ``name`` is none of them."""
    names = slot_names(paths, spec)
    if name in names:
        return
    known = ", ".join(names) if names else "none"
    raise ConfigError("no such slot on this host", where=name, remedy=f"slots here: {known}")


def local_slots(context: Context, paths: Paths, spec: HostSpec | None) -> list[LocalSlot]:
    """The slots of a host with the state of each."""
    names = slot_names(paths, spec)
    named = {name: unit_name(paths, name) for name in names}
    units = unit_properties(context, named.values()) if paths.is_this_host() else {}
    busy = busy_units(paths, units)
    return [
        _slot(
            paths,
            spec,
            name,
            units.get(named[name], {}),
            busy=None if busy is None else named[name] in busy,
        )
        for name in names
    ]


def _slot(
    paths: Paths, spec: HostSpec | None, name: str, unit: Mapping[str, str], *, busy: bool | None
) -> LocalSlot:
    state = _state(paths.state / "slots" / f"{name}.json")
    wanted = next((slot for slot in spec.github_runner.slots if slot.name == name), None) if spec else None
    agent_id = state.get("agent_id")
    return LocalSlot(
        name=name,
        runner_name=_text(state, "runner_name") or (spec.runner_name(wanted) if spec and wanted else None),
        url=_text(state, "url") or (spec.slot_url(wanted) if spec and wanted else None),
        labels=_labels(paths, spec, wanted) if spec and wanted else (),
        gpus=wanted.gpus if wanted else (),
        agent_id=agent_id if isinstance(agent_id, int) else None,
        version=_text(state, "version"),
        unit_state=_unit_state(unit),
        busy=busy,
        hold_reason=_hold(paths.state / "hold" / name),
        restart_pending=(paths.state / "pending" / name).exists(),
        in_spec=wanted is not None,
        mode="ephemeral" if state.get("mode") == "ephemeral" else "persistent",
    )


def _labels(paths: Paths, spec: HostSpec, slot: Slot) -> tuple[str, ...]:
    """All labels a slot should have: GitHub's own, unless the spec leaves them out, and the custom ones."""
    custom = spec.slot_labels(slot)
    if spec.github_runner.no_default_labels:
        return custom
    machine = ARCHITECTURES.get(os.uname().machine) if paths.is_this_host() else None
    return ("self-hosted", "linux", *([machine] if machine else []), *custom)


def unit_properties(context: Context, units: Iterable[str]) -> dict[str, dict[str, str]]:
    """What systemd says about ``units``, by name; empty where there is no systemd."""
    names = list(units)
    if not names:
        return {}
    command = ["systemctl", "show", "--property=Id,LoadState,ActiveState,MainPID", *names]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SYSTEMCTL_SECONDS, check=False
        )
    except FileNotFoundError:
        return {}
    except (OSError, subprocess.TimeoutExpired) as error:
        context.note(f"runnerctl: systemctl did not answer: {error}")
        return {}
    blocks = (_properties(block) for block in answer.stdout.split("\n\n"))
    return {block["Id"]: block for block in blocks if "Id" in block}


def _properties(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.splitlines())
    return {name: value for name, separator, value in pairs if separator}


def _unit_state(unit: Mapping[str, str]) -> str | None:
    """``active``, ``failed``, ...; ``absent`` when systemd has no such unit."""
    if not unit:
        return None
    return "absent" if unit.get("LoadState") == "not-found" else unit.get("ActiveState")


def busy_units(paths: Paths, units: Mapping[str, Mapping[str, str]]) -> frozenset[str] | None:
    """The units whose listener has started a worker; None when the process table cannot be read.

    ``units`` are systemd's properties. A process that a job left behind may bear the worker's name, but never
    the listener as its parent; where the listener is not known the name decides.
    """
    processes = [path for path in _entries(paths / "proc") if path.name.isdigit()]
    if not processes:
        return None
    found = set()
    for path in processes:
        if _words(path / "comm") == [WORKER]:
            parts = {part for word in _words(path / "cgroup") for part in word.split("/")}
            found |= {part for part in parts if _listener(units.get(part, {})) in (None, _parent(path))}
    return frozenset(found)


def _listener(unit: Mapping[str, str]) -> str | None:
    """The process id of a unit's listener, or None when systemd did not say."""
    return None if unit.get("MainPID", "0") == "0" else unit["MainPID"]


def _parent(process: Path) -> str:
    """The parent's id: the second word behind the name, which is in brackets and may hold anything."""
    words = " ".join(_words(process / "stat")).rpartition(")")[2].split()
    return words[1] if len(words) > 1 else ""


def _words(path: Path) -> list[str]:
    """The words of a small file; none when it is gone: processes and groups come and go while we look."""
    try:
        return path.read_text(errors="replace").split()
    except OSError:
        return []


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []


def _state(path: Path) -> dict[str, Any]:
    """A slot's state file; an absent or broken one says nothing, and the next converge writes it again."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _text(state: Mapping[str, Any], key: str) -> str | None:
    value = state.get(key)
    return value if isinstance(value, str) and value else None


def _hold(path: Path) -> str | None:
    try:
        text = path.read_text(errors="replace").strip()
        return text.partition("\n")[0].strip() or "no reason given"
    except OSError:
        return None
