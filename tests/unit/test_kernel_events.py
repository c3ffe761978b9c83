"""What root leaves of the kernel log for those who may not read it."""

from __future__ import annotations

import os
import stat
from datetime import datetime, timezone
from pathlib import Path

import pytest

from runnerctl.core.driver_readings import KernelEvent, KernelLog
from runnerctl.probes.kernel_events import FRESH_SECONDS, publish, published

BOOT = "b" * 32
LINE = "NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=secretmodel, GPU has fallen off the bus."
EVENT = KernelEvent(
    time=datetime(2026, 11, 22, 8, tzinfo=timezone.utc),
    boot_id=BOOT,
    kind="xid",
    code=79,
    pci="0000:01:00",
    message=LINE,
    pid=4711,
    process="secretmodel",
)
LOG = KernelLog(boot_id=BOOT, source="journal", events=(EVENT,))
ME = os.geteuid()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where root left it."""
    publish(LOG, tmp_path / "run" / "events.json")
    return tmp_path / "run" / "events.json"


def test_everybody_reads_what_happened_and_not_to_whom(path: Path) -> None:
    """Code, GPU and time are there; the program is not, in no field."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert "secretmodel" not in path.read_text() and "4711" not in path.read_text()
    found = published(BOOT, path, owner=ME)
    assert found is not None and found.source == "published"
    (event,) = found.events
    assert (event.code, event.pci, event.process, event.pid) == (79, "0000:01:00", None, None)
    assert event.message.endswith("79, GPU has fallen off the bus.")


def test_another_boot_another_owner_an_old_or_a_damaged_file_is_none(path: Path) -> None:
    """Not knowing is UNKNOWN; a wrong log would be a wrong verdict."""
    assert published("c" * 32, path, owner=ME) is None
    assert published(BOOT, path, owner=ME + 1) is None
    old = path.stat().st_mtime - FRESH_SECONDS - 5
    os.utime(path, (old, old))
    assert published(BOOT, path, owner=ME) is None
    publish(LOG, path)
    path.write_text(path.read_text()[:40])
    assert published(BOOT, path, owner=ME) is None
    assert published(BOOT, path.with_name("none"), owner=ME) is None
