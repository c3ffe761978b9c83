"""Main memory: what is left of it, and what EDAC counted."""

from __future__ import annotations

import re
from pathlib import Path

from runnerctl.core.driver_readings import Memory
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.files import read_bytes, read_line, under

__all__ = ["read_memory"]


def read_memory(rootfs: Path) -> Memory | Unavailable:
    """/proc/meminfo, and the counters of all memory controllers under /sys/devices/system/edac."""
    text = read_bytes(under(rootfs, "/proc/meminfo"))
    if not isinstance(text, bytes):
        return text or Unavailable("there is no /proc/meminfo")
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(rb"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    if b"MemTotal" not in sizes or b"MemAvailable" not in sizes:
        return Unavailable("/proc/meminfo tells neither MemTotal nor MemAvailable")
    return Memory(
        total_bytes=sizes[b"MemTotal"],
        available_bytes=sizes[b"MemAvailable"],
        corrected_errors=_edac(rootfs, "ce_count"),
        uncorrected_errors=_edac(rootfs, "ue_count"),
    )


def _edac(rootfs: Path, counter: str) -> int | None:
    controllers = under(rootfs, "/sys/devices/system/edac/mc").glob("mc[0-9]*")
    counts = [text for each in controllers if (text := read_line(each / counter)) and text.isdigit()]
    return sum(map(int, counts)) if counts else None
