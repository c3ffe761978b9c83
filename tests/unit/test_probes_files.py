"""Files where something else may stand: nothing of that may keep a verdict waiting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runnerctl.core.snapshot import Unavailable
from runnerctl.errors import DataError
from runnerctl.hostfile import load_host_spec
from runnerctl.probes import nvml
from runnerctl.probes.files import read_bytes, read_line
from runnerctl.probes.history import read_gpu_history


@pytest.mark.timeout(20)
def test_a_named_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    """To open one for reading is to wait for its writer."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = read_bytes(pipe)
    assert isinstance(found, Unavailable)
    assert found.reason == f"{pipe} is no regular file"
    assert read_line(pipe) is None
    with pytest.raises(DataError, match="is a named pipe"):
        load_host_spec(pipe)


def test_what_the_kernel_makes_up_is_read() -> None:
    """Files of /proc have no size."""
    assert isinstance(read_bytes(Path("/proc/self/stat")), bytes)


def test_the_arguments_of_a_daemon_that_is_stuck_are_left_alone(tmp_path: Path) -> None:
    """To read them may mean to wait for the very driver that it is stuck in."""
    (tmp_path / "run/nvidia-persistenced").mkdir(parents=True)
    (tmp_path / "run/nvidia-persistenced/nvidia-persistenced.pid").write_text("77\n")
    (tmp_path / "proc/77").mkdir(parents=True)
    (tmp_path / "proc/77/cmdline").write_bytes(b"nvidia-persistenced\0--no-persistence-mode\0")
    (tmp_path / "proc/77/stat").write_text("77 (nvidia-persiste) S 1 77\n")
    assert not nvml.persistence_on(tmp_path)
    (tmp_path / "proc/77/stat").write_text("77 (nvidia-persiste) D 1 77\n")
    assert nvml.persistence_on(tmp_path)


def test_notes_without_a_time_zone_are_damaged(tmp_path: Path) -> None:
    """They cannot be compared with the kernel log's times."""
    notes = tmp_path / "var/lib/runnerctl/gpus.json"
    notes.parent.mkdir(parents=True)
    event = '{"time": "2026-11-22T08:00:00", "boot_id": "b", "kind": "reset", "uuid": "GPU-1"}'
    notes.write_text(f'{{"schema": "runnerctl.gpus/1", "events": [{event}]}}')
    found = read_gpu_history(tmp_path)
    assert isinstance(found, Unavailable)
    assert "timezone" in found.reason
    notes.write_text(notes.read_text().replace("08:00:00", "08:00:00Z"))
    assert not isinstance(read_gpu_history(tmp_path), Unavailable)
