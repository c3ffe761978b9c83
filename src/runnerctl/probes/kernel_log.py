"""The kernel log's lines about GPUs: from the journal, or from /dev/kmsg where there is none.

The journal is asked for kernel messages of every boot (``journalctl -k`` would show this boot only), newest
first, so that a reading cut short by its deadline misses the oldest ones. Root's readings end with a note of
where they ended, and the next one starts there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.driver_readings import KernelEvent, KernelLog
from runnerctl.core.kernel_lines import Line, parse_lines, plain_boot_id, thinned
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.files import read_bytes, read_line, under
from runnerctl.probes.kernel_events import PUBLISHED, publish, published
from runnerctl.replace import replace_file

__all__ = ["STATE", "parse_kernel_log", "read_kernel_log"]

STATE = "/run/runnerctl/kernel-log.json"
SCHEMA = "runnerctl.kernel-log/1"
_DAY = timedelta(hours=24)
_LONGEST_BACK = timedelta(days=7)
_SHARE = 0.7  # of the deadline is for reading; the rest for everything else
_MOST_EVENTS = 2000
_KMSG_RECORD = 8192 + 1024  # bytes; the kernel never writes a longer one
_KMSG_MOST = 64 * 1024 * 1024
_WORDS = (b"NVRM", b"SXid", b"module", b"Key was rejected")
_REMEDY = "see why `journalctl -n 1 _TRANSPORT=kernel` does not answer; `journalctl --verify` finds damage"
_PATTERN = "|".join(word.decode() for word in _WORDS)


class _State(msgspec.Struct, kw_only=True):
    """What the last reading left for the next one."""

    schema: str = SCHEMA
    boot_id: str
    cursor: str
    events: tuple[KernelEvent, ...] = ()


@dataclass
class _Reading:
    """One reading of the log in the making. Used in the child only."""

    rootfs: Path
    environ: Mapping[str, str]
    now: datetime
    end: float
    boot_id: str
    started_at: datetime | None
    state: Path | None = None
    cursor: str = ""
    truncated: bool = False
    goes_on: bool = False  # from where an earlier reading ended
    lines: list[Line] = field(default_factory=list)

    @property
    def here(self) -> bool:
        return self.rootfs == Path("/")

    @property
    def since(self) -> datetime:
        """This boot and the last 24 hours, a week at most."""
        day = self.now - _DAY
        start = min(day, self.started_at or day)
        return max(start, self.now - _LONGEST_BACK)


def read_kernel_log(
    report: Report,
    *,
    rootfs: Path,
    environ: Mapping[str, str],
    now: float,
    timeout_seconds: float,
    state: Path | None = None,
) -> dict[str, Any] | None:
    """What `parse_kernel_log` reads; None when there is no kernel log below another root than ``/``.

    ``state``: where this reading notes down where it ended; root's readings of this host have ``STATE``.
    Raises PermissionError when there is a log that may not be read, OSError when it cannot be.
    """
    boot_id, started_at = _boot(rootfs)
    reading = _Reading(
        rootfs=rootfs,
        environ=environ,
        now=datetime.fromtimestamp(now, timezone.utc),
        end=time.monotonic() + _SHARE * timeout_seconds,
        boot_id=boot_id,
        started_at=started_at,
        state=state or (Path(STATE) if rootfs == Path("/") and os.geteuid() == 0 else None),
    )
    try:
        return _read(report, reading)
    except PermissionError:
        log = published(boot_id) if reading.here else None
        if log is None:
            raise
        built: dict[str, Any] = msgspec.to_builtins(log)
        return built


def _read(report: Report, reading: _Reading) -> dict[str, Any] | None:
    report.stage("journalctl")
    before = _load(reading)
    if _from_journal(reading, before):
        return _answer(reading, "journal", before if reading.goes_on else None)
    report.stage("/dev/kmsg")
    reading.cursor, reading.lines = "", []
    return _answer(reading, "kmsg", None) if _from_kmsg(reading) else None


def parse_kernel_log(outcome: Outcome) -> KernelLog | Unavailable | None:
    """The reading, why there is none, or None when there is nothing to read."""
    failure = outcome.failure
    if failure is not None:
        kind, _, text = failure.reason.partition(": ")
        if kind == "PermissionError":
            return Unavailable(text, call=failure.call, kind="denied")
        return msgspec.structs.replace(failure, remedy=_REMEDY)
    if outcome.value is None:
        return None
    try:
        return msgspec.convert(outcome.value, KernelLog, strict=False)
    except msgspec.ValidationError as error:
        return Unavailable(f"the kernel log's reading is damaged: {error}", call="journalctl")


def _answer(reading: _Reading, source: str, before: _State | None) -> dict[str, Any]:
    """Put old and new events together, write down where this reading ended, drop what is too old."""
    old = before.events if before else ()
    seen = {(event.time, event.message, event.code) for event in old}
    new = [e for e in parse_lines(reading.lines) if (e.time, e.message, e.code) not in seen]
    kept = [event for event in (*old, *new) if _is_recent(event, reading)]
    events = tuple(thinned(kept, _MOST_EVENTS))
    if reading.cursor and reading.state is not None and (reading.goes_on or not reading.truncated):
        _save(reading.state, _State(boot_id=reading.boot_id, cursor=reading.cursor, events=events))
    log = KernelLog(boot_id=reading.boot_id, source=source, events=events, truncated=reading.truncated)
    if reading.state is not None:
        publish(log, reading.state.with_name(Path(PUBLISHED).name))
    built: dict[str, Any] = msgspec.to_builtins(log)
    return built


def _is_recent(event: KernelEvent, reading: _Reading) -> bool:
    return event.time >= reading.now - _DAY or event.boot_id == reading.boot_id


def _boot(rootfs: Path) -> tuple[str, datetime | None]:
    """This boot's id, and when it began."""
    boot_id = plain_boot_id(read_line(under(rootfs, "/proc/sys/kernel/random/boot_id")) or "")
    stat = read_bytes(under(rootfs, "/proc/stat"))
    for line in stat.splitlines() if isinstance(stat, bytes) else ():
        words = line.split()
        if words[:1] == [b"btime"] and words[-1].isdigit():
            return boot_id, datetime.fromtimestamp(int(words[-1]), timezone.utc)
    return boot_id, None


def _load(reading: _Reading) -> _State | None:
    """What the last reading of this boot left, if it is whole and ours."""
    path = reading.state
    if path is None:
        return None
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        if path.stat().st_uid == os.geteuid():
            state = msgspec.json.decode(path.read_bytes(), type=_State)
            if state.schema == SCHEMA and state.boot_id == reading.boot_id and state.cursor:
                return state
    return None


def _save(path: Path, state: _State) -> None:
    """Replace the note at once; a reading is worth something without it, too."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o755, exist_ok=True)
        replace_file(path, msgspec.json.encode(state), mode=0o600)


def _from_journal(reading: _Reading, before: _State | None) -> bool:
    """Read the journal on from the last reading, or whole; False when there is none."""
    if before is not None:
        reading.cursor, reading.goes_on = before.cursor, True
        with contextlib.suppress(OSError):  # the cursor is of no use any more
            return _journal(reading, f"--after-cursor={before.cursor}")
        reading.cursor, reading.goes_on, reading.lines = "", False, []
    # Where the log ends now is where the next reading begins: what comes meanwhile is read twice, kept once.
    if not _journal(reading, "--lines=1"):
        return False  # none, or one without a word of the kernel, as in many containers
    end, options = reading.cursor, ("--reverse", f"--since=@{int(reading.since.timestamp())}")
    try:  # journalctl's own filter is ten times as fast, where it was built with one
        _journal(reading, *options, f"--grep={_PATTERN}", "--case-sensitive=true")
    except OSError:
        _journal(reading, *options)
    reading.cursor = end
    return True


def _journal(reading: _Reading, *options: str) -> bool:
    where = []
    if not reading.here:
        folder = under(reading.rootfs, "/var/log/journal")
        if not folder.is_dir():
            return False
        where = ["--directory", str(folder)]
    command = ["journalctl", "--no-pager", "--output=json", "--output-fields=MESSAGE", *where, *options]
    try:
        child = subprocess.Popen(
            [*command, "_TRANSPORT=kernel"],
            env={**reading.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        return False
    rows, found = _rows(reading, child)
    ordered = rows if reading.goes_on else reversed(rows)
    reading.lines = [line for row in ordered if (line := _line(row, reading.now))]
    if not found:
        return _is_quiet(reading, child)
    if not reading.truncated and child.stderr:
        child.stderr.read()
        reading.truncated = child.wait() != 0  # it stopped half-way: what is missing is not known
    return True


def _rows(reading: _Reading, child: subprocess.Popen[bytes]) -> tuple[list[dict[str, Any]], bool]:
    """The rows of interest, and whether there were any rows at all. The newest one's cursor is kept."""
    rows: list[dict[str, Any]] = []
    first = last = b""
    for raw in child.stdout or ():
        first, last = first or raw, raw
        if any(word in raw for word in _WORDS) or b'"MESSAGE":[' in raw.replace(b" ", b""):
            rows.append(_decoded(raw))
        if time.monotonic() > reading.end:
            reading.truncated = True
            child.kill()
            break
    newest = _decoded(last if reading.goes_on else first)
    reading.cursor = str(newest.get("__CURSOR", "")) or reading.cursor
    return rows, bool(first)


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        row = msgspec.json.decode(raw)
    except msgspec.DecodeError:  # cut off by the deadline
        return {}
    return row if isinstance(row, dict) else {}


def _is_quiet(reading: _Reading, child: subprocess.Popen[bytes]) -> bool:
    """Whether no row is as it should be. Raises when the journal may not be read, or cannot."""
    said = (child.stderr.read(4096) if child.stderr else b"").decode("utf-8", "replace").strip()
    status = child.wait()
    lowered = said.lower()
    if "permission" in lowered or "not seeing messages" in lowered:
        if os.access(under(reading.rootfs, "/dev/kmsg"), os.R_OK):
            return False
        raise PermissionError("only root and the group systemd-journal may read the kernel log")
    if status < 0:
        raise OSError(f"journalctl was ended by signal {-status}")
    if status and said:  # a filter that let nothing through ends with 1, too
        raise OSError(f"journalctl ended with status {status}: {said.partition(chr(10))[0]}")
    return reading.goes_on


def _line(row: Mapping[str, Any], now: datetime) -> Line | None:
    message, stamp = row.get("MESSAGE"), str(row.get("__REALTIME_TIMESTAMP", ""))
    if isinstance(message, list):  # bytes that are no UTF-8 come as a list of numbers
        numbers = [byte for byte in message if isinstance(byte, int) and 0 <= byte < 256]
        message = bytes(numbers).decode("utf-8", "replace")
    if not isinstance(message, str) or not stamp.isdigit():
        return None
    try:
        moment = datetime.fromtimestamp(int(stamp) / 1_000_000, timezone.utc)
    except (ValueError, OverflowError, OSError):  # no time that can be: the line counts nevertheless
        moment = now
    return Line(moment, plain_boot_id(str(row.get("_BOOT_ID", ""))), message)


def _from_kmsg(reading: _Reading) -> bool:
    """Read what the kernel still has of this boot; False when there is no /dev/kmsg."""
    path = under(reading.rootfs, "/dev/kmsg")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if reading.here:
            raise OSError("there is no journal, and no /dev/kmsg") from None
        return False
    except PermissionError:
        raise PermissionError("only root may read the kernel log") from None
    try:
        start = reading.started_at or reading.now
        for text in _records(reading, handle):
            head, _, message = text.partition(";")
            fields = head.split(",")
            if len(fields) >= 3 and fields[2].isdigit():
                moment = start + timedelta(microseconds=int(fields[2]))
                reading.lines.append(Line(moment, reading.boot_id, _unescaped(message)))
    finally:
        os.close(handle)
    return True


def _records(reading: _Reading, handle: int) -> Iterator[str]:
    """Records of interest, each without the lines of its device; a plain file may stand in for the device."""
    left, taken = b"", 0
    while time.monotonic() < reading.end and taken < _KMSG_MOST:
        try:
            data = os.read(handle, _KMSG_RECORD)
        except BlockingIOError:
            return
        except BrokenPipeError:  # overwritten before it could be read; the next read goes on
            reading.truncated = True
            continue
        taken += len(data)
        *whole, left = (left + data).split(b"\n")
        for raw in whole if data else [left]:
            if not raw.startswith(b" ") and any(word in raw for word in _WORDS):
                yield raw.decode("utf-8", "replace")
        if not data:
            return
    reading.truncated = True


def _unescaped(text: str) -> str:
    """The kernel writes unprintable bytes of a message as ``\\xNN``; a line break is the one that matters."""
    return text.replace("\\x0a", "\n")
