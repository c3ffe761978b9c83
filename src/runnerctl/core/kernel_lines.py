"""Lines of the kernel log -> events of GPUs and NVSwitches. Pure.

The forms are those of NVIDIA's driver from R300 to R600: with and without ``PCI:``, with a function number,
with a process or without, NVLink 5's with their units and registers, and those that carry no Xid at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from runnerctl.core.driver_readings import KernelEvent
from runnerctl.core.xid_table import rank, xid

__all__ = ["RECOVERY_WORDS", "Line", "normal_pci", "parse_lines", "plain_boot_id", "thinned"]

# nvmlDeviceGpuRecoveryAction_t, which Xid 154 prints as well.
RECOVERY_WORDS: tuple[str, ...] = (
    "none",
    "reset",
    "reboot",
    "drain_p2p",
    "drain_and_reset",
    "imex",
    "bus_reset",
    "system_reboot",
)
# What syslog and the console put before a message: its level, its time, who printed it, colours.
_STAMP = re.compile(r"\A\s*(?:<\d+>)?\s*(?:\[\s*\d+\.\d+\])?\s*(?:\[\s*[TC]\d+\])?\s*")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The kernel tells of a program that failed by its name, its id and its file's name ("NAME[PID]: segfault at
# ... in FILE[...]", or "NAME invoked oom-killer: ..."). A job chooses both names, the program's of at most 15
# characters: neither may pass for the driver's word. The driver itself writes no such brackets there.
_OF_A_PROGRAM = re.compile(
    r"NVRM: .{0,9}\[\d+\]"
    r"|NVRM: .{0,9} invoked oom-killer"
    r"|.{0,15}\[\d+\]:? (?:segfault|bad frame|unhandled|trap)"
)
_LONGEST = 300  # characters of a message that are kept
_SAME = timedelta(seconds=5)  # much less than what makes two occurrences of a fault
_JOIN = 3  # how many lines a message of several lines may take
_PCI = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-9a-f])?", re.IGNORECASE)
_XID = re.compile(
    r"NVRM: .{0,40}?\bXid\s*(?:\((?:PCI:)?([^)]*)\))?\s*:?\s*(\d{1,9})\b[,.:]?\s*(.*)", re.DOTALL
)
_SXID = re.compile(
    r"(nvidia-nvswitch\d+):?\s+SXid\s*\((?:PCI:)?([^)]*)\)\s*:\s*(\d{1,6})\b,?\s*(.*)", re.DOTALL
)
_PROCESS = re.compile(r"pid='?(\d+|<unknown>)'?,\s*(?:name=([^,]*),?\s*)?")
_FATAL = re.compile(r"\b(non-?)?fatal\b", re.IGNORECASE)
_REGISTERS = re.compile(r"\((0x[0-9a-f]+)(?: 0x[0-9a-f]+)+", re.IGNORECASE)
_RECOVERY = re.compile(r".*\bto\s+(?:0x([0-9a-f]+))?\s*\(?([^)]*)\)?", re.IGNORECASE | re.DOTALL)
_REJECTED = re.compile(r"Loading of .*module.* is rejected|Key was rejected by service", re.IGNORECASE)
_UNSIGNED = re.compile(r"nvidia\w*: module verification failed", re.IGNORECASE)
_GSP = re.compile(
    r"GSP.*(?:heartbeat|timed? ?out|crash|halted)|Cannot initialize GSP|GSP firmware.*fail",
    re.IGNORECASE,
)
_INIT = re.compile(r"(?:RmInitAdapter|rm_init_adapter)\W* failed", re.IGNORECASE)


class Line(NamedTuple):
    """One record of the kernel log."""

    time: datetime
    boot_id: str
    message: str


def normal_pci(text: str | None) -> str | None:
    """A PCI address as ``dddd:bb:ss``, the domain kept: NVML writes eight digits for it, the kernel four.

    None when the text holds no address. The function is left out: a GPU has one.
    """
    found = _PCI.search(text or "")
    if found is None:
        return None
    return f"{int(found[1], 16):04x}:{found[2].lower()}:{found[3].lower()}"


def plain_boot_id(text: str) -> str:
    """A boot id as the journal writes it: without dashes."""
    return text.strip().replace("-", "").lower()


def parse_lines(lines: Iterable[Line]) -> list[KernelEvent]:
    """The events of lines that come oldest first."""
    return [event for line in _joined(lines) if (event := _event(line))]


def thinned(events: Iterable[KernelEvent], most: int) -> list[KernelEvent]:
    """The events with the same within a few seconds once, and not more than about ``most`` of them.

    A program may write thousands of lines a minute; they must not push out the one that matters. So what is a
    program's own fault goes first, the oldest before the others.
    """
    last: dict[tuple[object, ...], datetime] = {}
    kept: list[KernelEvent] = []
    for event in events:
        key = (event.kind, event.code, event.pci, event.boot_id, event.fatal, event.recovery)
        if key not in last or abs(event.time - last[key]) >= _SAME:
            last[key] = event.time
            kept.append(event)
    spare = max(len(kept) - most, 0)
    mild = [number for number, event in enumerate(kept) if _is_mild(event)][:spare]
    dropped = frozenset(mild)
    return [event for number, event in enumerate(kept) if number not in dropped][-most:]


def _is_mild(event: KernelEvent) -> bool:
    return event.kind == "xid" and rank(xid(event.code or 0).action) <= rank("JOB") and event.code != 154


def _joined(lines: Iterable[Line]) -> Iterator[Line]:
    """Put messages of several lines together, whether the log kept them as one record or as several."""
    begun: Line | None = None
    parts = 0
    for each in lines:
        line = each._replace(message=_one_line(each.message))
        if _OF_A_PROGRAM.match(line.message):
            continue
        if begun is not None and parts < _JOIN and _continues(line.message):
            line = begun._replace(message=f"{begun.message} {line.message.removeprefix('NVRM: ')}")
            parts += 1
        else:
            parts = 1
        begun = line if _is_begun(line.message) else None
        if begun is None or parts >= _JOIN:
            yield line


def _one_line(message: str) -> str:
    """A message without line breaks, without the kernel's time before it, with ``NVRM:`` once only."""
    text = " ".join(_STAMP.sub("", _COLOUR.sub("", message)).split())
    first, *rest = text.split("NVRM: ")
    return f"NVRM: {' '.join(' '.join(rest).split())}" if not first and rest else text


def _continues(message: str) -> bool:
    return message.startswith("NVRM: ") and not _XID.match(message)


def _is_begun(message: str) -> bool:
    if message.startswith("NVRM: The NVIDIA GPU "):
        return "off the bus" not in message and "not supported" not in message
    return message.startswith("NVRM: API mismatch:") and "kernel module" not in message


def _event(line: Line) -> KernelEvent | None:
    message = line.message
    if found := _XID.match(message):
        return _xid(line, found)
    if found := _SXID.match(message):
        return KernelEvent(
            line.time,
            line.boot_id,
            "sxid",
            code=int(found[3]),
            pci=normal_pci(found[2]),
            message=found[4][:_LONGEST],
            fatal=_is_fatal(found[4]),
            device=found[1],
        )
    return _plain(line)


def _plain(line: Line) -> KernelEvent | None:
    """Lines without a code."""
    message, pci = line.message, normal_pci(line.message)
    text = message.removeprefix("NVRM: ")[:_LONGEST]
    if _REJECTED.search(message):
        return KernelEvent(line.time, line.boot_id, "key_rejected", message=text, fatal=True)
    if _UNSIGNED.match(message):  # it was loaded nevertheless
        return KernelEvent(line.time, line.boot_id, "key_rejected", message=text, fatal=False)
    if not message.startswith("NVRM: "):
        return None
    if "fallen off the bus" in message:
        return KernelEvent(line.time, line.boot_id, "off_the_bus", pci=pci, message=text)
    if "API mismatch" in message:
        return KernelEvent(line.time, line.boot_id, "api_mismatch", message=text)
    if _INIT.search(message):
        return KernelEvent(line.time, line.boot_id, "init_failed", pci=pci, message=text)
    if _GSP.search(message):
        return KernelEvent(line.time, line.boot_id, "gsp", pci=pci, message=text)
    return None


def _xid(line: Line, found: re.Match[str]) -> KernelEvent:
    code, text = int(found[2]), found[3]
    process = _PROCESS.match(text)
    rest = text[process.end() :] if process else text
    pid = process[1] if process and process[1].isdigit() else None
    name = (process[2] or "").strip() if process else ""
    return KernelEvent(
        line.time,
        line.boot_id,
        "xid",
        code=code,
        pci=normal_pci(found[1]),
        message=rest[:_LONGEST],
        pid=int(pid) if pid else None,
        process=name if name and name != "<unknown>" else None,
        fatal=_is_fatal(rest, which=-1) if 144 <= code <= 150 else None,
        recovery=_recovery(rest) if code == 154 else None,
        subcode=_subcode(rest) if 144 <= code <= 150 else None,
    )


def _is_fatal(text: str, *, which: int = 0) -> bool | None:
    """By the first such word, or the last one: a program's name, which may hold any, stands before it."""
    found = [*_FATAL.finditer(text)]
    return not found[which][1] if found else None


def _subcode(text: str) -> int | None:
    """Bits 20 to 25 of the first register of an NVLink 5 error; a program's name may look like registers."""
    found = [*_REGISTERS.finditer(text)]
    return (int(found[-1][1], 16) >> 20) & 0x3F if found else None


def _recovery(text: str) -> str | None:
    """What Xid 154 changed to: by number, or by words where there is none. None: not understood."""
    found = _RECOVERY.match(text)
    if found is None:
        return None
    if found[1] and int(found[1], 16) < len(RECOVERY_WORDS):
        return RECOVERY_WORDS[int(found[1], 16)]
    words = found[2].lower()
    for word, meaning in (
        ("p2p", "drain_p2p"),
        ("drain", "drain_and_reset"),
        ("reboot", "reboot"),
        ("reset", "reset"),
        ("none", "none"),
    ):
        if word in words:
            return meaning
    return None
