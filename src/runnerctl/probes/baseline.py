"""The saved baseline on a host: read, written at once or not at all, removed."""

from __future__ import annotations

from pathlib import Path

from runnerctl.core.baseline import decode
from runnerctl.core.driver_readings import Baseline
from runnerctl.core.snapshot import Unavailable
from runnerctl.errors import DataError
from runnerctl.probes.files import LARGEST_BYTES, read_bytes, under
from runnerctl.replace import replace_file

__all__ = ["BASELINE_FILE", "read_baseline", "write_baseline"]

BASELINE_FILE = "/var/lib/runnerctl/baseline.json"


def read_baseline(rootfs: Path) -> Baseline | Unavailable | None:
    """The baseline of the host below ``rootfs``; None when none was saved."""
    path = under(rootfs, BASELINE_FILE)
    data = read_bytes(path, LARGEST_BYTES + 1)
    if data is None or isinstance(data, Unavailable):
        return data
    try:
        if len(data) > LARGEST_BYTES:
            raise DataError(
                "is too large to be a baseline", remedy="remove it with `runnerctl baseline clear`"
            )
        return decode(data, where="")
    except DataError as error:
        return Unavailable(f"{path} {error.what}", remedy=error.remedy)


def write_baseline(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, readable by all: the old content or the new, never a part. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace_file(path, data, mode=0o644, lasting=True)
