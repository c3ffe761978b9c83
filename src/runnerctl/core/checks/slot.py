"""Does each slot's runner run? Seen from the host alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from runnerctl.core.checks.expect import spec_slot
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import LogLine, Process, Registration, SlotReading, SlotState, Unit
from runnerctl.core.spec import HostSpec

__all__ = [
    "SLOT_CONNECTION",
    "SLOT_LISTENER",
    "SLOT_PENDING_RESTART",
    "SLOT_REGISTERED",
    "SLOT_UNIT",
    "SLOT_VERSION",
]

LISTENER = "Runner.Listener"  # exactly the 15 characters that the kernel keeps of a name
WORKER = "Runner.Worker"
_PROVISION = "run the provision playbook for this host again"
# actions/runner, Constants.Runner.ReturnCode
_EXIT = {
    1: ("the listener gave up (1): a deleted registration or a broken configuration", _PROVISION),
    2: ("the listener met an error that passes (2), too often in a row", "see its log; start the unit again"),
    5: (
        "another host holds a session of the same runner (5)",
        "find the copy of this runner's directory on another host and stop it, then start the unit",
    ),
    7: (
        "GitHub refuses this runner version (7)",
        "run the provision playbook again, with github_runner_version raised where it is pinned",
    ),
}
# The listener's own lines, the newest of which says what it is doing (actions/runner, Runner.Listener).
_LINES: tuple[tuple[re.Pattern[str], str | None], ...] = (
    (re.compile(r"Runner connect error"), "cannot reach GitHub and keeps trying"),
    (
        re.compile(r"A session for this runner already exists"),
        "waits: another host holds a session of this runner",
    ),
    (re.compile(r"registration has been deleted"), "its registration was deleted on GitHub"),
    (re.compile(r"clock (?:may be|is)? ?(?:out of sync|skew)", re.IGNORECASE), "the clock is too far off"),
    (re.compile(r"AAD Correlation ID"), "stopped in the middle of a login, and may hang"),
    (re.compile(r"Runner reconnected|Listening for Jobs|Running job:|completed with result:"), None),
)
_RUNNING = re.compile(r"Running job:")
_VERSION_FLOOR = (2, 329, 0)  # below it github.com refuses registrations since 29 September 2026


def _judge_registered(
    slot: SlotReading,
    registration: Registration | None,
    state: SlotState | None,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    wanted = spec_slot(spec, slot.name)
    if spec and not wanted:
        remedy = f"{_PROVISION}, which removes it, or name it in github_runner_slots"
        yield warning("is on this host, but not in its spec", remedy)
    elif state and state.registering:
        yield warning("a registration was begun and not finished")
    elif registration is None:
        yield critical("is not registered: it has no .runner")
    elif spec and wanted:
        yield _as_wanted(registration, url=spec.slot_url(wanted), name=spec.runner_name(wanted))
    else:
        yield ok(f"registered as {registration.name}", agent_id=registration.agent_id)


def _as_wanted(registration: Registration, *, url: str, name: str) -> Verdict:
    data = {"agent_id": registration.agent_id, "name": registration.name, "url": registration.url}
    if registration.url and _plain(registration.url) != _plain(url):
        return critical(f"is registered at {registration.url}, and belongs at {url}", **data)
    if registration.name.lower() != name.lower():
        return warning(f"is registered as {registration.name}, and should be {name}", **data)
    return ok(f"registered as {registration.name}", **data)


def _plain(url: str) -> str:
    return url.rstrip("/").lower()


def _judge_unit(
    slot: SlotReading, unit: Unit, hold: str | None, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec
    data = {
        "unit": unit.name,
        "active_state": unit.active_state,
        "sub_state": unit.sub_state,
        "exec_main_status": unit.exec_main_status,
        "restarts": unit.restarts,
        "enabled": unit.enabled,
    }
    if hold is not None:
        yield _held(slot.name, hold, data)
    elif unit.load_state == "not-found":
        yield critical("has no systemd unit", _PROVISION, **data)
    elif unit.active_state == "active":
        yield _active(unit, data)
    elif unit.active_state == "activating":
        summary = f"is starting again after exit status {unit.exec_main_status} ({unit.restarts} restarts)"
        again = unit.restarts or unit.sub_state.startswith("auto-restart")  # counted when it does start
        yield warning(summary if again else "is starting", **data)
    else:
        yield _stopped(unit, data)


def _held(slot: str, hold: str, data: dict[str, object]) -> Verdict:
    """The file's first line is the reason; below stands who gave it."""
    lines = hold.strip().splitlines()
    remedy = f"when the reason is gone: `runnerctl resume {slot}`"
    if "by: health" in lines:
        remedy = "mend what the reason says: it is released after clean verdicts in a row"
    return warning(f"held: {lines[0].strip() if lines else 'no reason given'}", remedy, **data)


def _active(unit: Unit, data: dict[str, object]) -> Verdict:
    if unit.enabled not in ("enabled", "enabled-runtime", "static", "generated", "indirect", "alias"):
        remedy = f"`systemctl enable {unit.name}`"
        return warning("runs, but will not start at the next boot", remedy, **data)
    return ok(f"active ({unit.sub_state})", **data)


def _stopped(unit: Unit, data: dict[str, object]) -> Verdict:
    """A unit that ended: status 0 is no good sign, the listener ends so when its record was deleted."""
    if unit.result == "oom-kill":
        return critical(
            "was killed because memory ran out", "give jobs less parallelism, or more memory", **data
        )
    if unit.active_state == "failed" and unit.exec_main_status in _EXIT:
        summary, remedy = _EXIT[unit.exec_main_status]
        return critical(f"failed: {summary}", remedy, **data)
    if unit.active_state == "failed":
        return critical(f"failed: {unit.result}, exit status {unit.exec_main_status}", **data)
    if not unit.ever_started:
        return critical("was never started", _PROVISION, **data)
    if unit.exec_main_status == 0:
        summary = "ended by itself with status 0: its record was deleted on GitHub, or someone stopped it"
        return critical(summary, f"{_PROVISION}, or `systemctl start {unit.name}`", **data)
    return critical(f"is {unit.active_state}, exit status {unit.exec_main_status}", **data)


def _judge_listener(
    slot: SlotReading, unit: Unit, processes: tuple[Process, ...], *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del slot, spec
    if unit.active_state != "active":
        return
    listeners = [process for process in processes if _is_listener(process, unit)]
    # What a job left behind may bear these names too, but is never the unit's main process nor its child.
    busy = any(process.comm == WORKER and process.parent in (0, unit.main_pid) for process in processes)
    if any(process.state in ("T", "t") for process in listeners):
        remedy = f"`systemctl restart {unit.name}`; a job may have stopped it"
        yield critical("the listener is stopped (SIGSTOP) and takes no job", remedy, busy=busy)
    elif listeners:
        yield ok(
            "the listener runs" + (", and so does a job" if busy else ""), processes=len(processes), busy=busy
        )
    else:
        running = ", ".join(sorted({process.comm for process in processes})) or "nothing"
        remedy = f"`systemctl restart {unit.name}`, and look at its log"
        yield critical(f"the unit is active without a listener (in it: {running})", remedy, busy=busy)


def _is_listener(process: Process, unit: Unit) -> bool:
    return process.comm == LISTENER and unit.main_pid in (0, process.pid)


def _judge_connection(
    slot: SlotReading, unit: Unit, log: tuple[LogLine, ...], connections: int, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del slot, spec
    if unit.active_state != "active":
        return
    line, complaint = _newest(log)
    data = {
        "connections": connections,
        "last_line": line.message if line else None,
        "last_line_at": line.time.isoformat().replace("+00:00", "Z") if line else None,
    }
    if line and complaint:
        yield warning(f"since {line.time:%Y-%m-%d %H:%M:%SZ}: {complaint}", **data)
    elif not connections:
        yield warning("the listener has no TCP connection to GitHub", **data)
    else:
        doing = "running a job" if line and _RUNNING.search(line.message) else "connected"
        yield ok(f"{doing}, {connections} TCP connection{'' if connections == 1 else 's'}", **data)


def _newest(log: tuple[LogLine, ...]) -> tuple[LogLine | None, str | None]:
    """The newest line that means something, and what is wrong by it; the log is oldest first."""
    for line in reversed(log):
        for pattern, complaint in _LINES:
            if pattern.search(line.message):
                return line, complaint
    return (log[-1], None) if log else (None, None)


def _judge_version(
    slot: SlotReading, bound: str | None, registration: Registration | None, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    running = slot.running_version
    version = running or bound
    pin = spec.github_runner.version if spec else None
    data = {"bound": bound, "running": running, "wanted": pin}
    if version is None:
        if registration is not None:
            yield ok("the runner's version is not written down on this host", **data)
    elif bound and running and bound != running:
        yield warning(f"runs {running}; {bound} is installed and waits for a restart", **data)
    elif pin and version != pin:
        yield warning(f"runs {version}, and the spec pins {pin}", **data)
    elif _below_floor(version) and registration and "://github.com/" in (registration.url or ""):
        yield warning(f"{version} is too old to be registered again at github.com", **data)
    else:
        yield ok(f"runner {version}", **data)


def _below_floor(version: str) -> bool:
    parts = re.findall(r"\d+", version)
    return tuple(int(part) for part in parts[:3]) < _VERSION_FLOOR


def _judge_pending(slot: SlotReading, pending: str | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del slot, spec
    if pending is None:
        yield ok("no restart is pending")
    else:
        why = f": {pending.strip()}" if pending.strip() else ""
        yield warning(f"changed settings wait until it is idle{why}")


SLOT_REGISTERED = Check(
    id="slot.registered",
    title="Each slot is registered",
    docs=(
        "Reads the runner's own .runner and compares its URL and name with the spec. A slot on disk "
        "that the spec does not name is reported too."
    ),
    remedy=_PROVISION,
    judge=_judge_registered,
    needs=(".registration", ".state"),
    over="slots",
)
SLOT_UNIT = Check(
    id="slot.unit",
    title="Each slot's unit is active",
    docs=(
        "Asks systemd for all slots at once. The listener's exit codes are named: 1 terminated, 5 "
        "session conflict, 7 version refused. An end with status 0 is a fault as well: so it ends when "
        "its record was deleted. A held slot is a warning with the reason of the hold."
    ),
    remedy="look at the slot's log with `runnerctl logs SLOT`",
    judge=_judge_unit,
    needs=(".unit", ".hold"),
    over="slots",
)
SLOT_LISTENER = Check(
    id="slot.listener",
    title="The listener runs",
    docs=(
        "An active unit proves little: there must be a process named Runner.Listener in the unit's "
        "control group. A Runner.Worker beside it means that a job is running."
    ),
    remedy="restart the slot's unit while no job runs",
    judge=_judge_listener,
    needs=(".unit", ".processes"),
    over="slots",
)
SLOT_CONNECTION = Check(
    id="slot.connection",
    title="The listener is connected",
    docs=(
        "The newest telling line that this run of the unit wrote to the journal, and the listener's "
        "established TCP connections. A listener can hang without ending, or try to connect for hours."
    ),
    remedy="check the network with host.api; if that is fine, restart the unit while no job runs",
    judge=_judge_connection,
    needs=(".unit", ".log", ".connections"),
    over="slots",
)
SLOT_VERSION = Check(
    id="slot.version",
    title="Each slot runs the right version",
    docs=(
        "The version whose copy is bound into the slot, the one the listener printed when it started, "
        "and the pin of the spec. How long GitHub accepts a version is judged by github.version, where "
        "a credential is."
    ),
    remedy=f"{_PROVISION}, with github_runner_version raised where it is pinned",
    judge=_judge_version,
    needs=(".bound_version", ".registration"),
    over="slots",
)
SLOT_PENDING_RESTART = Check(
    id="slot.pending_restart",
    title="No restart is pending",
    docs=(
        "Settings of a busy slot are changed on disk and taken up when it is idle; until then this " "warns."
    ),
    remedy="nothing, if a job is running; otherwise restart the slot's unit",
    judge=_judge_pending,
    needs=(".pending_restart",),
    over="slots",
)
