"""What the health timer last made of each GPU: root's judgement leaves it here for who must know at once.

Before a job starts there is no time for a whole judgement; the guard takes the last one, if it is fresh, and
a quick look of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from runnerctl.probes.files import read_bytes
from runnerctl.replace import replace_file

__all__ = ["PATH", "GpuVerdict", "Verdicts", "publish", "published"]

PATH = "/run/runnerctl/gpu-verdict.json"
SCHEMA = "runnerctl.gpu-verdict/1"


class GpuVerdict(msgspec.Struct, frozen=True):
    """What was made of a GPU, and why."""

    state: Literal["clean", "sick", "unknown"]
    reason: str = ""


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """All GPUs of the host by UUID; a MIG device stands under its own. ``at``: seconds since the epoch."""

    schema: str = SCHEMA
    at: float
    boot_id: str
    gpus: dict[str, GpuVerdict] = {}


def publish(gpus: Mapping[str, GpuVerdict], *, boot_id: str, at: float, path: Path = Path(PATH)) -> None:
    """Replace the file at once; a round of the health timer is worth something without it, too."""
    verdicts = Verdicts(at=at, boot_id=boot_id, gpus=dict(gpus))
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o755, exist_ok=True)
        replace_file(path, msgspec.json.encode(verdicts), mode=0o644)


def published(path: Path = Path(PATH), *, boot_id: str, now: float, fresh_seconds: float) -> Verdicts | None:
    """The last judgement of this boot, if it is not older than that; None where there is none."""
    data = read_bytes(path)
    if not isinstance(data, bytes):
        return None
    with contextlib.suppress(msgspec.MsgspecError):
        verdicts = msgspec.json.decode(data, type=Verdicts)
        if (
            verdicts.schema == SCHEMA
            and verdicts.boot_id == boot_id
            and 0 <= now - verdicts.at <= fresh_seconds
        ):
            return verdicts
    return None
