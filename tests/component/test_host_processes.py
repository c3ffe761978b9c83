"""Commands and processes of a host, real ones: what a job may do to its own processes must not stop us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import process, slot_system
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import run
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

# A name of bytes that are no UTF-8 (prctl(2), PR_SET_NAME), as any user may give to a process.
NAMELESS = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, b"\\xff\\xfe", 0, 0, 0)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture()
def nameless() -> Iterator[int]:
    """A process whose name is no text."""
    with subprocess.Popen([sys.executable, "-c", NAMELESS], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        yield child.pid
        child.kill()


def test_a_name_that_is_no_text_hides_no_process(nameless: int) -> None:
    """Neither from the search for a slot's user nor from the look into a unit."""
    with open(f"/proc/{nameless}/cgroup", encoding="utf-8") as file:
        group = file.readline().strip().rpartition("/")[2]
    assert nameless in slot_system._pids_of(os.geteuid())
    found = {entry.pid: entry for entry in System().processes_in(group)}
    assert found[nameless].comm == "\ufffd\ufffd"
    assert found[nameless].parent == os.getpid()


def test_a_command_that_does_not_end_is_killed_with_its_children() -> None:
    """The whole session goes, within the deadline."""
    started = time.monotonic()
    with pytest.raises(HostError, match=r"sh -c .*: did not end within 0 s"):
        run(["sh", "-c", "sleep 60 & wait"], timeout=0.2)
    assert time.monotonic() - started < 5


def test_a_command_that_outlives_its_killing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one in uninterruptible sleep does: the deadline holds all the same."""
    spared: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, _: spared.append(pid))
    monkeypatch.setattr(process, "REAP_SECONDS", 0.2)
    started = time.monotonic()
    try:
        with pytest.raises(HostError, match="did not end within"):
            run(["sleep", "60"], timeout=0.2)
        assert time.monotonic() - started < 5
    finally:
        for pid in spared:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
