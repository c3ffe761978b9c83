"""Processes of a job: run one with its output as lines, end it, find what it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .context import time_scale

_INTERRUPT_SECONDS, _TERMINATE_SECONDS, _LAST_OUTPUT_SECONDS = 7.5, 2.5, 2.0


def run(
    words: list[str],
    *,
    directory: Path,
    environment: dict[str, str],
    on_line: Callable[[str], None],
    cancelled: threading.Event,
    deadline_seconds: float | None = None,
) -> int:
    """Run a program to its end and return its exit code; 128 plus the signal for one that was killed.

    When ``cancelled`` is set meanwhile, or the deadline passes, the program is interrupted, then terminated,
    then killed with all its children. Raises OSError when it cannot be started.
    """
    process = subprocess.Popen(
        words,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    reader = threading.Thread(target=_forward, args=(process, on_line), daemon=True)
    reader.start()
    started, already = time.monotonic(), cancelled.is_set()
    while process.poll() is None:
        late = deadline_seconds is not None and time.monotonic() - started > deadline_seconds
        if late or (cancelled.is_set() and not already):
            _end(process)
            break
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
    # A background process may keep the pipe open; the step is over all the same.
    reader.join(max(_LAST_OUTPUT_SECONDS / time_scale(), 0.3))
    code = process.wait()
    return 128 - code if code < 0 else code


def _forward(process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> None:
    if process.stdout is not None:
        for line in process.stdout:
            on_line(line.decode("utf-8", "replace").rstrip("\r\n"))


def _end(process: subprocess.Popen[bytes]) -> None:
    for signum, seconds in ((signal.SIGINT, _INTERRUPT_SECONDS), (signal.SIGTERM, _TERMINATE_SECONDS)):
        process.send_signal(signum)
        try:
            process.wait(timeout=seconds / time_scale())
            return
        except subprocess.TimeoutExpired:
            continue
    for pid in [*descendants(process.pid), process.pid]:
        kill(pid)


def kill(pid: int) -> None:
    """SIGKILL; a process that is gone already is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def pids() -> list[int]:
    """Every process the host shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(ancestor: int) -> list[int]:
    """Children of ``ancestor``, their children, and so on."""
    parents = {pid: parent_of(pid) for pid in pids()}
    found: list[int] = []
    wave = [ancestor]
    while wave:
        wave = [pid for pid, parent in parents.items() if parent in wave]
        found += wave
    return found


def parent_of(pid: int) -> int:
    """The parent's pid; 0 when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def marked(variable: str, value: str) -> dict[int, str]:
    """Processes that carry ``variable=value`` in their environment: pid to name."""
    mark = f"{variable}={value}".encode()
    found = [pid for pid in pids() if mark in _bytes(f"/proc/{pid}/environ").split(b"\0")]
    return {pid: _bytes(f"/proc/{pid}/comm").decode("utf-8", "replace").strip() for pid in found}


def _bytes(path: str) -> bytes:
    """A file's content; nothing when it is gone or belongs to somebody else."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
