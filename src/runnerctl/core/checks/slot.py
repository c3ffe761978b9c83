"""Does each slot's runner run? Seen from the host alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from runnerctl.core.checks.expect import spec_slot
from runnerctl.core.checks.slot_ephemeral import ephemeral_registered
from runnerctl.core.checks.slot_log import PROVISION, REPLACE, newest, stamp
from runnerctl.core.checks.slot_unit import DROP_IN
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import LogLine, Process, Registration, SlotFiles, SlotReading, SlotState, Unit
from runnerctl.core.spec import HostSpec

__all__ = [
    "SLOT_CONNECTION",
    "SLOT_LISTENER",
    "SLOT_PENDING_RESTART",
    "SLOT_REGISTERED",
    "SLOT_VERSION",
]

_WORKER_STARTS = timedelta(seconds=60)  # GitHub takes a job back that no runner began in this time
_CLOCKS_DIFFER = timedelta(seconds=5)  # file system, journal and the line itself
_PASSES = timedelta(minutes=5)  # what takes longer is an outage, and the slot is lost to its users
LISTENER = "Runner.Listener"  # exactly the 15 characters that the kernel keeps of a name
WORKER = "Runner.Worker"
_BEGINNING = ("sh", "base64")  # what an ephemeral slot's unit runs for some milliseconds
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
        remedy = f"{PROVISION}, which removes it, or name it in github_runner_slots"
        yield warning("is on this host, but not in its spec", remedy)
    elif state and state.registering:
        yield warning("a registration was begun and not finished")
    elif state and state.ephemeral and spec and wanted:
        yield ephemeral_registered(state, spec=spec, wanted=wanted)
    elif state and state.ephemeral:
        yield ok("registers anew for each job", last_agent_id=state.agent_id)
    elif registration is None:
        yield critical("is not registered: it has no .runner", REPLACE)
    elif spec and wanted:
        adopted = state is not None and state.adopted == registration.agent_id
        name = registration.name if adopted else spec.runner_name(wanted)
        yield _as_wanted(registration, url=spec.slot_url(wanted), name=name)
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


def _judge_listener(
    slot: SlotReading, unit: Unit, processes: tuple[Process, ...], *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec
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
    elif slot.ephemeral and all(process.comm in _BEGINNING for process in processes):
        yield ok("the listener begins", busy=False)
    else:
        running = ", ".join(sorted({process.comm for process in processes})) or "nothing"
        others = [name for name in unit.drop_ins if name != DROP_IN]
        remedy = f"`systemctl restart {unit.name}`, and look at its log"
        if others:
            remedy += f"; it has drop-ins of somebody else: {', '.join(others)}"
        summary = f"the unit is active ({unit.sub_state}) without a listener (in it: {running})"
        yield critical(summary, remedy, busy=busy, drop_ins=list(unit.drop_ins))


def _is_listener(process: Process, unit: Unit) -> bool:
    return process.comm == LISTENER and unit.main_pid in (0, process.pid)


def _judge_connection(
    slot: SlotReading,
    unit: Unit,
    log: tuple[LogLine, ...],
    connections: int,
    time: datetime,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    del spec
    if unit.active_state != "active":
        return
    line, sign = newest(log)
    data = {
        "connections": connections,
        "last_line": line.message if line else None,
        "last_line_at": line.time.isoformat().replace("+00:00", "Z") if line else None,
    }
    age = time - line.time if line else timedelta()
    if line and sign and sign.takes_job and slot.runs_job is False and (hung := _hung(slot, line, time)):
        yield critical(hung, f"`systemctl restart {unit.name}`, then run the job again", **data)
    elif line and sign and sign.wrong:
        said = critical if age > _PASSES and not connections else warning
        yield said(f"since {stamp(line)}: {sign.wrong}", sign.remedy, **data)
    elif not connections:
        yield warning("the listener has no TCP connection to GitHub", **data)
    else:
        doing = "running a job" if sign and sign.takes_job else "connected"
        yield ok(f"{doing}, {connections} TCP connection{'' if connections == 1 else 's'}", **data)


def _hung(slot: SlotReading, line: LogLine, time: datetime) -> str | None:
    """What is wrong with a job that was taken and has no worker; None while that may be its beginning or end.

    Each worker begins a log of its own: without one since then, none was started.
    """
    written = slot.files.worker_log_at if isinstance(slot.files, SlotFiles) else None
    worked = written is not None and written >= line.time - _CLOCKS_DIFFER
    if time - max(line.time, written if written and worked else line.time) <= _WORKER_STARTS:
        return None
    if worked:
        return f"its worker of the job of {stamp(line)} is gone, and the listener has not noticed: it hangs"
    return f"acknowledged a job at {stamp(line)} and started no worker for it: the listener hangs"


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
    remedy=PROVISION,
    judge=_judge_registered,
    needs=(".registration", ".state"),
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
        "established TCP connections. A listener can hang without ending: it takes a job and starts no "
        "worker for it. Or it tries to connect for hours: after five minutes that is critical."
    ),
    remedy="check the network with host.api; if that is fine, restart the unit while no job runs",
    judge=_judge_connection,
    needs=(".unit", ".log", ".connections", "time"),
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
    remedy=f"{PROVISION}, with github_runner_version raised where it is pinned",
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
