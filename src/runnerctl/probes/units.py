"""Systemd's view of the slots: one ``systemctl show`` for all, and the journal's last lines."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from runnerctl.core.snapshot import LogLine, Unavailable, Unit
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.slot_rules import PROPERTIES

__all__ = [
    "LINES",
    "Tools",
    "outcome_text",
    "parse_journal",
    "parse_out_of_memory",
    "parse_units",
    "read_journal",
    "read_out_of_memory",
    "read_units",
    "running_version",
    "slot_of",
    "unit_of",
]

LINES = 40  # of the journal, for each slot
_MOST_LINES = 400
_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecMainStartTimestampMonotonic",
    "MainPID",
    "ExecMainPID",
    "NRestarts",
    "UnitFileState",
    "ControlGroup",
    "InvocationID",
    "User",
    "FragmentPath",
    "DropInPaths",
    *PROPERTIES,
)
_FIELDS = "MESSAGE,_PID,_SYSTEMD_UNIT,_SYSTEMD_INVOCATION_ID"
# systemd's own message when the kernel killed a process of a unit (SD_MESSAGE_UNIT_OUT_OF_MEMORY).
_OUT_OF_MEMORY = "fe6faa94e7774663a0da52717891d8ef"
_VICTIM = re.compile(r"task_memcg=\S*/gha-(?:runner|ephemeral)@([\w.-]+)\.service")  # kernel, mm/oom_kill.c
_VERSION = re.compile(r"Current runner version: '([^']{1,40})'")


def unit_of(slot: str, *, ephemeral: bool = False) -> str:
    """The unit of a slot."""
    return f"gha-{'ephemeral' if ephemeral else 'runner'}@{slot}.service"


def slot_of(unit: str) -> str:
    """The slot of a unit."""
    return unit.removeprefix("gha-runner@").removeprefix("gha-ephemeral@").removesuffix(".service")


@dataclass(frozen=True)
class Tools:
    """How systemd's tools are run: for which slots, in which environment, for how long, as root or not.

    ``ephemeral``: those of the slots that register anew for each job.
    """

    slots: tuple[str, ...]
    environ: Mapping[str, str]
    timeout_seconds: float
    root: bool
    ephemeral: frozenset[str] = frozenset()

    def unit(self, slot: str) -> str:
        """The unit of one of the slots."""
        return unit_of(slot, ephemeral=slot in self.ephemeral)


def read_units(report: Report, *, tools: Tools) -> str:
    """What ``systemctl show`` prints for all the slots, asked once."""
    report.stage("systemctl show")
    command = ["systemctl", "show", "--no-pager", f"--property={','.join(_PROPERTIES)}"]
    return _run([*command, *map(tools.unit, tools.slots)], tools)


def parse_units(text: str) -> dict[str, Unit]:
    """Slot -> unit: blocks of ``Name=value`` lines with an empty line between them."""
    units = {}
    for block in re.split(r"\n\s*\n", text.strip()):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if fields.get("Id"):
            units[slot_of(fields["Id"])] = _unit(fields)
    return units


def _unit(fields: Mapping[str, str]) -> Unit:
    def number(name: str) -> int:
        value = fields.get(name, "")
        return int(value) if value.isascii() and value.isdigit() else 0

    return Unit(
        name=fields["Id"],
        load_state=fields.get("LoadState", ""),
        active_state=fields.get("ActiveState", ""),
        sub_state=fields.get("SubState", ""),
        result=fields.get("Result", ""),
        exec_main_code=number("ExecMainCode"),
        exec_main_status=number("ExecMainStatus"),
        main_pid=number("MainPID"),
        restarts=number("NRestarts"),
        enabled=fields.get("UnitFileState", ""),
        ever_started=number("ExecMainStartTimestampMonotonic") > 0,
        control_group=fields.get("ControlGroup", ""),
        invocation_id=fields.get("InvocationID", ""),
        user=fields.get("User", ""),
        fragment=fields.get("FragmentPath", ""),
        drop_ins=tuple(path.rpartition("/")[2] for path in fields.get("DropInPaths", "").split()),
        last_pid=number("MainPID") or number("ExecMainPID"),
    )


def read_journal(report: Report, *, tools: Tools) -> list[str]:
    """The last lines of all slots at once, and once more for each slot that the others drowned out."""
    report.stage("journalctl")
    slots = tools.slots
    texts = [_journal(slots, min(LINES * len(slots), _MOST_LINES), tools)]
    heard = {slot_of(unit) for unit in re.findall(r'"_SYSTEMD_UNIT"\s*:\s*"([^"]+)"', texts[0])}
    if len(slots) > 1 and heard:
        for slot in slots:
            if slot not in heard:
                report.stage(f"journalctl of {slot}")
                texts.append(_journal([slot], LINES, tools))
    if not heard and not tools.root:
        raise PermissionError("only root and the group systemd-journal may read the journal")
    return texts


def _journal(slots: Sequence[str], lines: int, tools: Tools) -> str:
    # A match on the field, not --unit: systemd's own messages about the unit are not the listener's.
    matches = [f"_SYSTEMD_UNIT={tools.unit(slot)}" for slot in slots]
    command = ["journalctl", "--no-pager", "--quiet", f"--lines={lines}", "--output=json"]
    return _run([*command, f"--output-fields={_FIELDS}", *matches], tools)


def read_out_of_memory(report: Report, *, tools: Tools) -> list[str]:
    """What systemd and the kernel wrote in the last day about processes that were killed for memory."""
    report.stage("journalctl for what the OOM killer did")
    # Of these two only: a job may write anything to the journal, under its own unit's name.
    by_systemd = [
        "_PID=1",
        f"MESSAGE_ID={_OUT_OF_MEMORY}",
        *(f"UNIT={tools.unit(slot)}" for slot in tools.slots),
    ]
    by_kernel = ["--grep=oom-kill:.*gha-(runner|ephemeral)@", "_TRANSPORT=kernel"]
    command = ["journalctl", "--no-pager", "--quiet", "--since=-1day", "--lines=100", "--output=json"]
    command += ["--output-fields=UNIT,MESSAGE"]
    texts = [_run([*command, *by_systemd], tools)]
    with suppress(OSError):  # nothing found is status 1; and not every build of systemd can search
        texts.append(_run([*command, *by_kernel], tools))
    return texts


def parse_out_of_memory(texts: Sequence[str]) -> dict[str, datetime]:
    """Slot -> when the kernel last killed one of its processes for memory."""
    found: dict[str, datetime] = {}
    for row in (row for text in texts for row in _rows(text)):
        stamp = str(row.get("__REALTIME_TIMESTAMP", ""))
        victim = _VICTIM.search(str(row.get("MESSAGE", "")))
        slot = slot_of(str(row.get("UNIT", ""))) or (victim[1] if victim else "")
        if stamp.isdigit() and slot:
            time = datetime.fromtimestamp(int(stamp) // 1_000_000, timezone.utc)
            found[slot] = max(time, found.get(slot, time))
    return found


def _run(command: Sequence[str], tools: Tools) -> str:
    done = subprocess.run(
        command,
        env={**tools.environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=tools.timeout_seconds,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        kind = PermissionError if "permission" in said.lower() else OSError
        raise kind(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout.decode("utf-8", "replace")


def parse_journal(
    texts: Sequence[str], invocations: Mapping[str, str], *, pids: Mapping[str, int] | None = None
) -> dict[str, tuple[LogLine, ...]]:
    """Slot -> its lines, oldest first, of the unit's last run only where that run is known.

    ``pids`` are the units' main processes: a job writes to the journal under its unit's name as well, and may
    say that the listener listens. Journald knows who wrote a line.
    """
    found: dict[str, dict[str, LogLine]] = {}
    for row in (row for text in texts for row in _rows(text)):
        slot, line = slot_of(str(row.get("_SYSTEMD_UNIT", ""))), _line(row)
        wanted = invocations.get(slot)
        if str((pids or {}).get(slot) or row.get("_PID")) != str(row.get("_PID")):
            continue
        if line and (not wanted or not line.invocation_id or line.invocation_id == wanted):
            found.setdefault(slot, {})[str(row.get("__CURSOR", line))] = line
    return {
        slot: tuple(sorted(lines.values(), key=lambda line: line.time)[-LINES:])
        for slot, lines in found.items()
    }


def _rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by the deadline
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> LogLine | None:
    message, stamp = row.get("MESSAGE"), str(row.get("__REALTIME_TIMESTAMP", ""))
    if isinstance(message, list):  # bytes that are no UTF-8 come as a list of numbers
        message = bytes(byte for byte in message if isinstance(byte, int) and 0 <= byte < 256).decode(
            "utf-8", "replace"
        )
    if not isinstance(message, str) or not stamp.isdigit():
        return None
    time = datetime.fromtimestamp(int(stamp) / 1_000_000, timezone.utc)
    return LogLine(time, message[:500], str(row.get("_SYSTEMD_INVOCATION_ID", "")))


def running_version(log: tuple[LogLine, ...] | Unavailable) -> str | None:
    """The version that the listener printed when it started, if that line is still among the last ones."""
    if isinstance(log, Unavailable):
        return None
    found = [match[1] for line in log if (match := _VERSION.search(line.message))]
    return found[-1] if found else None


def outcome_text(outcome: Outcome) -> Any:
    """The text of a reading, or why there is none."""
    failure = outcome.failure
    if failure and failure.reason.startswith("PermissionError"):
        return Unavailable(failure.reason.partition(": ")[2], call=failure.call, kind="denied")
    return failure or outcome.value
