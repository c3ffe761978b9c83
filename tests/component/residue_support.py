"""A slot's directories on this machine's disk, and jobs that are run as a lesser user."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from runnerctl.guard.ports import SlotPlace
from runnerctl.guard.residue import HostCleaner

__all__ = ["PYTHON", "UID", "Slot", "await_", "new_slot"]

UID = 61234
PYTHON = "/usr/bin/python3"  # one that every user may run


def await_(path: Path) -> None:
    """Until a job says that it is so far."""
    until = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.01)


class Slot:
    """A slot's directories, and jobs run as its user."""

    def __init__(self, base: Path) -> None:
        self.base, self.root = base, base / "slot"
        base.chmod(0o755)
        for name in ("", "_work", "home", "_diag"):
            (self.root / name).mkdir(mode=0o755 if not name else 0o700)
            os.chown(self.root / name, 0 if not name else UID, 0 if not name else UID)
        self.place = SlotPlace("t", "gha-t", UID, UID, self.root, "gha-runner@t.service")
        self.cleaner = HostCleaner(logs_folder=base / "logs")

    def start(self, script: str, *, program: str = PYTHON) -> subprocess.Popen[bytes]:
        """Begin a job; at most so many processes, so that this machine survives a bomb."""
        limits = ["prlimit", "--nproc=2000", "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        argv = [*limits, program, "-c", script]
        return subprocess.Popen(argv, cwd=self.root / "_work", env={"PATH": os.environ["PATH"]})

    def job(self, script: str, *, program: str = "sh") -> None:
        """Run a job to its end."""
        with self.start(script, program=program) as running:
            assert running.wait(timeout=20) == 0

    def processes(self) -> list[int]:
        """Those of the slot's user."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = entry.read_text(errors="replace").splitlines()
            except OSError:
                continue
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            if str(UID) in fields["Uid"].split() and "Z" not in fields["State"]:
                found.append(int(entry.parent.name))
        return found

    def left(self) -> list[str]:
        """Everything in the directories that jobs write to."""
        folders = [self.root / name for name in ("_work", "home", "_diag")]
        return sorted(str(path.relative_to(self.root)) for each in folders for path in each.rglob("*"))


@contextlib.contextmanager
def new_slot() -> Iterator[Slot]:
    """A slot on a disk, as on a host: /tmp may be in memory."""
    base = Path(tempfile.mkdtemp(dir="/var/tmp"))
    made = Slot(base)
    yield made
    for pid in made.processes():
        os.kill(pid, 9)
    for running in made.cleaner.trash._running.values():
        running.wait(timeout=20)
    shutil.rmtree(base)
