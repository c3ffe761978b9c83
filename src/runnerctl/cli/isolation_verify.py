"""``runnerctl isolation verify``: look at each slot, make the attempts, judge them."""

from __future__ import annotations

import pwd
import time
from dataclasses import dataclass
from datetime import datetime, timezone

from runnerctl.cli.context import Context
from runnerctl.cli.local import require_slot, slot_names
from runnerctl.core.device_nodes import Node, Place, UnitRules, compare, resolve
from runnerctl.core.findings import Finding
from runnerctl.core.health import Health, worst
from runnerctl.core.isolation import SCHEMA, Attempt, Tried, judge_status, judge_tried
from runnerctl.core.reading import Unavailable
from runnerctl.errors import AccessError, RunnerctlError
from runnerctl.hostfile import load_host_spec
from runnerctl.probes.device_nodes import (
    find_places,
    open_nodes,
    read_rules,
    read_table,
    show_unit,
    unit_files,
)
from runnerctl.probes.isolation import processes_of, read_status, try_all
from runnerctl.probes.isolation_oneshot import try_stopped
from runnerctl.probes.isolation_plan import Ground, plan
from runnerctl.probes.machine import read_host

__all__ = ["verify_slots"]

ENGINE = "gha-containers@"


@dataclass(frozen=True)
class _Subject:
    """A slot that can be looked into; ``pid`` is 0 where it does not run."""

    ground: Ground
    pid: int
    attempts: tuple[Attempt, ...] = ()


def verify_slots(context: Context, slot: str | None) -> Health:
    """The verdict on one slot, or on all. Raises AccessError unless run as root, ConfigError for no slot."""
    if context.user_id() != 0:
        raise AccessError("only root may look into a slot's unit", remedy="run it with sudo")
    started, now = time.monotonic(), context.clock()
    spec = load_host_spec(context.paths.host_file)
    if slot is not None:
        require_slot(context.paths, spec, slot)
    names = slot_names(context.paths, spec) if slot is None else [slot]
    findings = _findings(context, names)
    return Health(
        schema=SCHEMA,
        status=worst(findings),
        host=(spec.host if spec else "") or read_host(context.paths.root).name,
        checked_at=datetime.fromtimestamp(now, timezone.utc).replace(microsecond=0),
        duration_seconds=round(time.monotonic() - started, 3),
        findings=tuple(findings),
    )


def _findings(context: Context, names: list[str]) -> list[Finding]:
    """The slots in their order; those that run and those that do not are tried in two goes."""
    found: dict[str, list[Finding]] = {}
    subjects: dict[str, _Subject] = {}
    for name in names:
        subject = _subject(context, name)
        if isinstance(subject, Finding):
            found[name] = [subject]
        else:
            subjects[name] = subject
            if engine := _engine(context, name, subject.ground.uid):
                subjects[engine.ground.unit] = engine
    running = {name: (each.pid, each.attempts) for name, each in subjects.items() if each.pid}
    stopped = {name: (each.ground.unit, each.attempts) for name, each in subjects.items() if not each.pid}
    tried = {**try_all(running), **_try_stopped(context, stopped)}
    for name, subject in subjects.items():
        found.setdefault(subject.ground.slot, []).extend(_judged(subject, tried[name]))
    return [finding for name in names for finding in found[name]]


def _try_stopped(
    context: Context, plans: dict[str, tuple[str, tuple[Attempt, ...]]]
) -> dict[str, tuple[Tried, ...] | Unavailable]:
    try:
        return try_stopped(plans, environ=context.env)
    except OSError as error:
        return dict.fromkeys(plans, Unavailable(f"systemd did not take up the attempts' units: {error}"))


def _subject(context: Context, slot: str) -> _Subject | Finding:
    """What to try on a slot, or why it cannot be tried."""
    try:
        uid = pwd.getpwnam(f"gha-{slot}").pw_uid
        files = unit_files(slot, context.paths.root).items()
        found = [_of_unit(context, slot, uid, *each) for each in files if not each[0].startswith(ENGINE)]
        return next((each for each in found if each.pid), found[0])  # while its mode changes it has two
    except (KeyError, IndexError):
        remedy = "provision the host again, or remove what is left of the slot"
        return Finding("isolation.kernel", "UNKNOWN", slot, "it has no user or no unit here", remedy)
    except RunnerctlError as error:
        return Finding("isolation.devices", "CRITICAL", slot, f"{error.where} {error.what}", error.remedy)


def _engine(context: Context, slot: str, uid: int) -> _Subject | None:
    """The same for the unit of a slot's container engine, while that runs."""
    for unit, text in unit_files(slot, context.paths.root).items():
        if unit.startswith(ENGINE):
            subject = _of_unit(context, slot, uid, unit, text)
            return subject if subject.pid else None
    return None


def _of_unit(context: Context, slot: str, uid: int, unit: str, text: str) -> _Subject:
    shown = show_unit(unit, ("MainPID", "ControlGroup"), context.env)
    pid = int(shown["MainPID"] or 0)
    ground = Ground(
        slot,
        unit,
        uid,
        shown["ControlGroup"],
        nodes=_nodes(context, unit, text, running=pid > 0),
        engine=unit.startswith(ENGINE),
        reaches_engine="/run/gha-containers/" in text or unit.startswith(ENGINE),
        sandboxed=not pid,
    )
    return _Subject(ground, pid, tuple(plan(ground)))


def _nodes(context: Context, unit: str, text: str, *, running: bool) -> tuple[Node, ...]:
    """The slot's own nodes; a unit that does not run is told of them first, as before a start."""
    table, rules = read_table(), read_rules(unit, text, context.env)
    nodes = resolve(rules.gpus, _places(rules), table=table, engine=rules.engine)
    differences = compare(rules.allow, nodes, table=table)
    if not running and (differences.missing or differences.foreign):
        open_nodes(unit, nodes, context.env)
    return nodes


def _places(rules: UnitRules) -> dict[str, Place]:
    return find_places(rules.gpus) if rules.gpus else {}


def _judged(subject: _Subject, tried: tuple[Tried, ...] | Unavailable) -> list[Finding]:
    ground = subject.ground
    findings = [] if not subject.pid else [_held(ground)]
    if isinstance(tried, Unavailable):
        remedy = tried.remedy or "run it again; `runnerctl health` shows the state of the slot"
        summary = f"the attempts could not be made: {tried.reason}"
        return [*findings, Finding("isolation.attempts", "UNKNOWN", ground.slot, summary, remedy)]
    return [*judge_tried(ground.slot, ground.unit, tried), *findings]


def _held(ground: Ground) -> Finding:
    """What the kernel says of the unit's processes."""
    statuses = {pid: read_status(pid) for pid in processes_of(ground.control_group)}
    found = {pid: status for pid, status in statuses.items() if status is not None}
    return judge_status(ground.slot, ground.unit, found, uid=ground.uid, engine=ground.engine)
