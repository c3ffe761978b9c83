"""Is each slot's unit active, and if not, why: by the listener's last words, then by what systemd knows."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.checks.slot_ephemeral import ephemeral_starting
from runnerctl.core.checks.slot_log import AGAIN, PROVISION, RAISE, newest, stamp, was_asked_to_stop
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import LogLine, SlotReading, Unit
from runnerctl.core.spec import HostSpec

__all__ = ["DROP_IN", "SLOT_UNIT"]

DROP_IN = "10-slot.conf"  # our own
_SESSION_CONFLICT = 5
_AT_BOOT = ("enabled", "enabled-runtime", "static", "generated", "indirect", "alias")
# actions/runner, Constants.Runner.ReturnCode; from 200 on systemd's own (systemd.exec): nothing ran.
_UPDATE_REMEDY = f"{PROVISION}: an adopted runner is registered again, without updates"
_EXIT = {
    1: ("the listener gave up (1): a deleted registration or a broken configuration", PROVISION),
    2: ("the listener met an error that passes (2), too often in a row", "see its log; start the unit again"),
    3: ("GitHub sent it an update (3), which a slot cannot take", _UPDATE_REMEDY),
    4: ("GitHub sent it an update (4), which a slot cannot take", _UPDATE_REMEDY),
    5: (
        "another host holds a session of the same runner (5)",
        "find the copy of this runner's directory on another host and stop it, then start the unit",
    ),
    7: ("GitHub refuses this runner version (7): it has expired", RAISE),
    200: ("its directory cannot be entered (200)", PROVISION),
    203: (
        "its program cannot be executed (203): it is missing, or half an update replaced it",
        f"see slot.release; {PROVISION}",
    ),
    216: ("its group does not exist (216)", PROVISION),
    217: ("its user does not exist (217)", PROVISION),
    226: (
        "its mounts cannot be made (226): a directory that the unit binds is missing",
        f"see slot.release and slot.user; {PROVISION}",
    ),
}


def _judge_unit(
    slot: SlotReading,
    unit: Unit,
    hold: str | None,
    log: tuple[LogLine, ...] | None,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    del spec
    data: dict[str, object] = {
        "unit": unit.name,
        "active_state": unit.active_state,
        "sub_state": unit.sub_state,
        "exec_main_status": unit.exec_main_status,
        "restarts": unit.restarts,
        "enabled": unit.enabled,
    }
    if hold is not None:
        yield _held(slot.name, hold, data)
    elif unit.load_state == "masked":
        yield _masked(unit, data)
    elif unit.load_state == "not-found":
        yield critical("has no systemd unit", PROVISION, **data)
    elif unit.load_state in ("bad-setting", "error"):
        names = ", ".join(name for name in unit.drop_ins if name != DROP_IN)
        remedy = f"`systemd-analyze verify {unit.name}`; {PROVISION}"
        summary = f"has a unit file that systemd refuses ({unit.load_state})"
        yield critical(f"{summary}; somebody added {names}" if names else summary, remedy, **data)
    elif unit.active_state == "active":
        yield _active(unit, data)
    elif slot.ephemeral and unit.active_state in ("activating", "deactivating"):
        yield ephemeral_starting(slot, unit, data)
    elif unit.active_state == "activating":
        summary = f"is starting again after exit status {unit.exec_main_status} ({unit.restarts} restarts)"
        again = unit.restarts or unit.sub_state.startswith("auto-restart")  # counted when it does start
        yield warning(summary if again else "is starting", **data)
    else:
        yield _stopped(slot.name, unit, log=log or (), data=data)


def _held(slot: str, hold: str, data: dict[str, object]) -> Verdict:
    """The file's first line is the reason; below stands who gave it."""
    lines = hold.strip().splitlines()
    remedy = f"when the reason is gone: `runnerctl resume {slot}`"
    if "by: health" in lines:
        remedy = "mend what the reason says: it is released after clean verdicts in a row"
    return warning(f"held: {lines[0].strip() if lines else 'no reason given'}", remedy, **data)


def _masked(unit: Unit, data: dict[str, object]) -> Verdict:
    remedy = f"`systemctl unmask {unit.name} && systemctl enable --now {unit.name}`, or {PROVISION}"
    if unit.active_state == "active":
        return warning("is masked: it runs, and will not start again", remedy, **data)
    return critical("is masked: somebody forbade systemd to start it", remedy, **data)


def _active(unit: Unit, data: dict[str, object]) -> Verdict:
    if unit.enabled not in _AT_BOOT:
        remedy = f"`systemctl enable {unit.name}`"
        return warning("runs, but will not start at the next boot", remedy, **data)
    return ok(f"active ({unit.sub_state})", **data)


def _stopped(slot: str, unit: Unit, *, log: tuple[LogLine, ...], data: dict[str, object]) -> Verdict:
    """A unit that ended: status 0 is no good sign, the listener ends so when its record was deleted."""
    line, sign = newest(log)
    start = f"`systemctl start {unit.name}`"
    how = f"{'failed' if unit.active_state == 'failed' else 'ended'}, exit status {unit.exec_main_status}"
    if unit.result == "oom-kill":
        remedy = f"give jobs less parallelism, or more memory, then {start}"
        return critical("was killed because memory ran out", remedy, **data)
    if line and sign and sign.wrong and (sign.lasts or unit.exec_main_status == _SESSION_CONFLICT):
        data["last_line_at"] = stamp(line)
        return critical(f"{how}: {sign.wrong}", sign.remedy.replace("SLOT", slot), **data)
    if unit.active_state == "failed" and unit.exec_main_status in _EXIT:
        summary, remedy = _EXIT[unit.exec_main_status]
        return critical(f"failed: {summary}", remedy, **data)
    if unit.active_state == "failed":
        return critical(f"failed: {unit.result}, exit status {unit.exec_main_status}", **data)
    if not unit.ever_started:
        return critical("was never started", PROVISION, **data)
    if unit.exec_main_status == 0 and was_asked_to_stop(log):
        return critical("was stopped by somebody, and nothing holds it", start, **data)
    if unit.exec_main_status == 0:
        summary = "ended by itself with status 0: its record was deleted on GitHub, or someone stopped it"
        return critical(summary, f"{AGAIN}, or {start}", **data)
    return critical(f"is {unit.active_state}, exit status {unit.exec_main_status}", **data)


SLOT_UNIT = Check(
    id="slot.unit",
    title="Each slot's unit is active",
    docs=(
        "Asks systemd for all slots at once. Why a unit ended is told by the listener's last lines, then by "
        "its exit code: 1 terminated, 5 session conflict, 7 version refused; from 200 on systemd itself "
        "could not start it. An end with status 0 is a fault as well: so it ends when its record was deleted "
        "or its version refused. A held slot is a warning with the reason of the hold."
    ),
    remedy="look at the slot's log with `runnerctl logs SLOT`",
    judge=_judge_unit,
    needs=(".unit", ".hold", ".log?"),
    over="slots",
)
