"""Are a slot's own things as they must be: its user, its credential files, its programs, its memory?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from runnerctl.core.checks.slot_log import PROVISION, RENEW
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import (
    LogLine,
    Process,
    Registration,
    ReleaseFiles,
    SlotFiles,
    SlotReading,
    Snapshot,
    Unavailable,
    Unit,
)
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]

_LISTENER = "Runner.Listener"
_READ_BY_OTHERS, _ENTERED_BY_OTHERS = 0o006, 0o001
_MOST_NAMES = 3
_DAY = timedelta(days=1)


def _looked_at(snapshot: Snapshot) -> bool:
    """A snapshot of an older release holds nothing about files."""
    slots = snapshot.slots
    return not isinstance(slots, tuple) or any(slot.files is not None for slot in slots)


def _runs(slot: SlotReading) -> bool:
    """Whether the listener runs at this moment: what it has read already it does not miss."""
    if isinstance(slot.processes, Unavailable):
        return False
    return any(process.comm == _LISTENER for process in slot.processes)


def _graded(slot: SlotReading, problems: list[str], remedy: str, **data: object) -> Verdict:
    """CRITICAL when nothing runs; else it only waits for the next start to fail."""
    summary = "; ".join(problems)
    if _runs(slot):
        return warning(f"{summary}: the listener runs, and will not start again", remedy, **data)
    return critical(summary, remedy, **data)


# -- credential files --------------------------------------------------------------------------------------


def _judge_credentials(
    slot: SlotReading, files: SlotFiles | None, registration: Registration | None, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec
    if files is None or registration is None:  # slot.registered has said it
        return
    renew = RENEW.replace("SLOT", slot.name)
    broken = list(_broken_credentials(files))
    data = {"files": {fact.path: fact.kind for fact in files.credentials}}
    root = files.folder(".")
    closed = root is not None and not root.mode & _ENTERED_BY_OTHERS
    exposed = [] if closed else [fact.path for fact in files.credentials if fact.mode & _READ_BY_OTHERS]
    if broken:
        lost = any(fact.kind == "absent" for fact in files.credentials)
        yield _graded(slot, broken, f"{PROVISION}: it is registered again" if lost else renew, **data)
    elif exposed:
        names = " and ".join(exposed)
        summary = f"{names} may be read by every user of this host: the runner's private key"
        yield critical(summary, f"`chmod o-rwx` them; then, for a new key, {renew}", **data)
    else:
        yield ok("the credential files are there", **data)


def _broken_credentials(files: SlotFiles) -> Iterator[str]:
    for fact in files.credentials:
        if fact.kind == "absent":
            yield f"its credential file {fact.path} is missing"
        elif fact.kind != "file":
            yield f"its credential file {fact.path} is no regular file"
        elif fact.whole is False:
            yield f"its credential file {fact.path} is {'damaged' if fact.size_bytes else 'empty'}"
        elif files.gid is not None and fact.gid != files.gid and fact.uid != files.uid:
            yield f"its credential file {fact.path} belongs to another group than {files.user}'s"
        elif not fact.mode & (0o400 if fact.uid == files.uid else 0o040):
            yield f"its credential file {fact.path} may not be read by {files.user}"


# -- the user ----------------------------------------------------------------------------------------------


def _judge_user(
    slot: SlotReading,
    files: SlotFiles | None,
    unit: Unit | None,
    processes: tuple[Process, ...] | None,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    del spec
    if files is None:
        return
    data = {"user": files.user, "uid": files.uid}
    remedy = f"{PROVISION}: it makes the user and gives it its directories"
    if files.uid is None:
        yield _graded(slot, [f"its user {files.user} does not exist"], remedy, **data)
    elif unit and unit.user and unit.user not in (files.user, str(files.uid)):
        summary = f"its unit runs as {unit.user}, and should as {files.user}"
        where = f"remove the drop-in that says so ({', '.join(unit.drop_ins)}), then {PROVISION}"
        yield critical(summary, where, **data)
    elif problems := [*_wrong_folders(files), *_wrong_processes(files, processes or ())]:
        yield critical("; ".join(problems), remedy, **data)
    else:
        yield ok(f"{files.user} owns its directories", **data)


def _wrong_folders(files: SlotFiles) -> Iterator[str]:
    absent = [fact.path for fact in files.folders if fact.kind != "directory"]
    if "." in absent:
        yield "its directory does not exist"
        return
    if absent:
        yield f"{' and '.join(absent)} in its directory {'is' if len(absent) == 1 else 'are'} missing"
    foreign = [fact for fact in files.folders if fact.kind == "directory" and fact.path != "."]
    foreign = [fact for fact in foreign if fact.uid != files.uid or fact.mode & 0o700 != 0o700]
    if foreign:
        names = ", ".join(fact.path for fact in foreign)
        yield f"its user changed: {names} belong to uid {foreign[0].uid}, and {files.user} is uid {files.uid}"
    root = files.folder(".")
    if root and root.kind == "directory" and not foreign and root.gid != files.gid and not root.mode & 0o005:
        yield f"its user changed: its directory belongs to group {root.gid}, {files.user}'s is {files.gid}"


def _wrong_processes(files: SlotFiles, processes: tuple[Process, ...]) -> Iterator[str]:
    others = {each.uid for each in processes if each.comm == _LISTENER and each.uid not in (None, files.uid)}
    for uid in others:
        yield f"its listener runs as uid {uid}, and {files.user} is uid {files.uid}"


# -- the programs ------------------------------------------------------------------------------------------


def _judge_release(slot: SlotReading, files: SlotFiles | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del slot, spec
    release = files.release if files else None
    if release is None:
        return
    problems = list(_wrong_release(release))
    data = {"path": release.path}
    if not problems:
        yield ok(f"the programs in {release.path} are whole", **data)
        return
    summary = f"{release.path} is half an update: {'; '.join(problems)}"
    remedy = f"remove {release.path} and {PROVISION}: it unpacks a verified copy"
    yield critical(summary, remedy, **data)


def _wrong_release(release: ReleaseFiles) -> Iterator[str]:
    if not release.present:
        yield "it has no bin"
    for names, what in (
        (release.missing, "missing"),
        (release.empty, "empty"),
        (release.not_executable, "not executable"),
        (release.foreign, "not root's alone"),
    ):
        if names:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            verb = "is" if len(names) == 1 else "are"
            yield f"{', '.join(names[:_MOST_NAMES])}{more} {verb} {what}"


# -- memory ------------------------------------------------------------------------------------------------


def _judge_memory(
    slot: SlotReading, time: datetime, log: tuple[LogLine, ...] | None, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec
    data = {"oom_kills": slot.oom_kills}
    young = bool(log) and time - (log or ())[0].time < _DAY  # the counter is as old as the unit's run
    if slot.oom_at:
        summary = (
            f"memory ran out at {slot.oom_at:%Y-%m-%d %H:%M:%SZ}: the kernel killed a process of its job"
        )
        yield warning(summary, **data)
    elif slot.oom_kills and young:
        count = "a process" if slot.oom_kills == 1 else f"{slot.oom_kills} processes"
        yield warning(f"memory ran out: the kernel killed {count} of its jobs since it started", **data)
    elif slot.oom_kills is not None or isinstance(slot.unit, Unit):
        yield ok("no process of it was killed for memory in the last day", **data)


SLOT_CREDENTIALS = Check(
    id="slot.credentials",
    title="The runner's credential files are whole",
    docs=(
        "Looks at .credentials and .credentials_rsaparams: that they are there, are whole JSON, can be read "
        "by the slot's user and by no other. What stands in them is neither kept nor shown. A listener that "
        "runs has read them and does not miss them: it will not start again."
    ),
    remedy=RENEW,
    judge=_judge_credentials,
    needs=(".files", ".registration"),
    over="slots",
    when=_looked_at,
)
SLOT_USER = Check(
    id="slot.user",
    title="The slot's user owns its directories",
    docs=(
        "The user gha-SLOT must exist, the unit must run as that user, and _work, _diag and home must belong "
        "to it. After the user was removed and made again its number is another one, and the runner may not "
        "use its own files."
    ),
    remedy=PROVISION,
    judge=_judge_user,
    needs=(".files", ".unit?", ".processes?"),
    over="slots",
    when=_looked_at,
)
SLOT_RELEASE = Check(
    id="slot.release",
    title="The runner's programs are whole",
    docs=(
        "The copy of the release that the unit binds into the slot: Runner.Listener and Runner.Worker are "
        "there and can be executed, every assembly that the release itself lists is there, none is empty, "
        "all belong to root alone. An update that was cut short leaves programs that do not start, or fail."
    ),
    remedy=PROVISION,
    judge=_judge_release,
    needs=(".files",),
    over="slots",
    when=_looked_at,
)
SLOT_MEMORY = Check(
    id="slot.memory",
    title="Memory did not run out",
    docs=(
        "The unit goes on when the kernel kills a process of a job (OOMPolicy=continue), so its state says "
        "nothing. Reads systemd's message about it, of the last day, and the control group's own counter. "
        "The job of that time has failed, or lost a step without a word."
    ),
    remedy="give jobs less parallelism, or the host more memory; see host.memory and the job's log",
    judge=_judge_memory,
    needs=("time", ".log?"),
    over="slots",
)
CHECKS: tuple[Check, ...] = (SLOT_CREDENTIALS, SLOT_USER, SLOT_RELEASE, SLOT_MEMORY)
