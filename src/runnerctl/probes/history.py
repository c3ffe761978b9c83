"""What this host wrote down about its GPUs: resets, reboots, releases, clean verdicts in a row."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runnerctl.core.driver_readings import GpuEvent, GpuHistory
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.files import read_bytes, under

__all__ = ["DAMAGED", "FOREIGN", "PATH", "SCHEMA", "HistoryFile", "read_gpu_history"]

PATH = "/var/lib/runnerctl/gpus.json"
SCHEMA = "runnerctl.gpus/1"
# What is said of a file that no later reading will make better.
DAMAGED, FOREIGN = "cannot be understood", "has schema"


class HistoryFile(msgspec.Struct, frozen=True, kw_only=True):
    """The file: GpuHistory with its schema."""

    schema: str = SCHEMA
    events: tuple[GpuEvent, ...] = ()
    clean_probes: dict[str, int] = msgspec.field(default_factory=dict)


def read_gpu_history(rootfs: Path) -> GpuHistory | Unavailable | None:
    """The host's notes; None where there are none. One of another schema is not guessed at."""
    data = read_bytes(under(rootfs, PATH))
    if data is None or isinstance(data, Unavailable):
        return data
    try:
        file = msgspec.json.decode(data, type=HistoryFile)
    except msgspec.MsgspecError as error:
        return Unavailable(f"{PATH} {DAMAGED}: {error}")
    if file.schema != SCHEMA:
        return Unavailable(f"{PATH} {FOREIGN} {file.schema[:40]!r}, not {SCHEMA!r}")
    return GpuHistory(file.events, file.clean_probes)
