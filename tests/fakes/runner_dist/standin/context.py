"""Where the runner lives, what it prints, what it writes down, and how it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

SUCCESS = 0
TERMINATED = 1
RETRYABLE = 2
SESSION_CONFLICT = 5
VERSION_DEPRECATED = 7

# The worker's exit code is 100 plus the place of the result in this list.
RESULTS = ("Succeeded", "SucceededWithIssues", "Failed", "Canceled", "Skipped", "Abandoned")


class RunnerError(Exception):
    """Ends the command with one line on standard error and ``code``."""

    def __init__(self, message: str, code: int = TERMINATED) -> None:
        super().__init__(message)
        self.code = code


class Stopped(BaseException):
    """A signal asked the process to stop; carries the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def utc_stamp() -> str:
    """The ``u`` format of the runner's own lines: ``yyyy-MM-dd HH:mm:ssZ``."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())


def time_scale() -> float:
    """By how much every wait is divided (``GHA_STAND_IN_TIME_SCALE``, default 1)."""
    try:
        return max(float(os.environ.get("GHA_STAND_IN_TIME_SCALE", "1")), 0.001)
    except ValueError:
        return 1.0


class Context:
    """Root directory, release facts, terminal and diagnostic log of one process."""

    def __init__(self, kind: str) -> None:
        # The real program's host resolves links, so the root is the parent of where bin really is.
        self.bin = Path(os.path.realpath(__file__)).parent.parent
        self.root = self.bin.parent
        release = self.bin / "standin" / "release.json"
        facts: dict[str, Any] = json.loads(release.read_text(encoding="utf-8"))
        self.version: str = facts["version"]
        self.architecture: str = facts["architecture"]
        self.commit: str = facts["commit"]
        self.needs_icu: bool = facts["needs_icu"]
        self.kind = kind
        self._log: int = -1

    def open_log(self) -> None:
        """Create ``_diag/<kind>_<utc>-utc.log``; a directory that refuses it aborts the process."""
        directory = self.root / "_diag"
        name = f"{self.kind}_{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-utc.log"
        try:
            directory.mkdir(exist_ok=True)
            self._log = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError:
            abort(f"System.UnauthorizedAccessException: Access to the path '{directory / name}' is denied.")

    def trace(self, text: str, *, area: str = "Runner") -> None:
        """One line in the diagnostic log, and on standard output where the environment asks for it."""
        line = f"[{utc_stamp()} INFO {area}] {text}\n".encode("utf-8", "surrogateescape")
        if self._log >= 0:
            _write(self._log, line)
        if os.environ.get("ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT") == "1":
            _write(1, line)

    def say(self, text: str = "") -> None:
        """One line on standard output."""
        self.trace(f"WRITE LINE: {text}", area="Terminal")
        _write(1, f"{text}\n".encode("utf-8", "surrogateescape"))

    def stamped(self, text: str) -> None:
        """One line on standard output with the time in front."""
        self.say(f"{utc_stamp()}: {text}")

    def complain(self, text: str) -> None:
        """One line on standard error."""
        self.trace(f"WRITE ERROR: {text}", area="Terminal")
        _write(2, f"{text}\n".encode("utf-8", "surrogateescape"))

    def load_env_file(self) -> None:
        """Put the lines of ``.env`` into the environment: split at the first ``=``, nothing else."""
        try:
            text = (self.root / ".env").read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            name, sign, value = line.partition("=")
            if name and sign:
                if value:
                    os.environ[name] = value
                else:
                    os.environ.pop(name, None)

    def check_directories(self) -> None:
        """List the root and each of its parents; one that cannot be read ends the process (code 1)."""
        try:
            for directory in (self.root, *self.root.parents):
                os.listdir(directory)
        except OSError as error:
            raise RunnerError(
                "An error occurred: Permission to read the directory contents is required for Runner and each"
                f" directory up the hierarchy. Access to the path '{error.filename}' is denied."
            ) from error


def abort(message: str) -> NoReturn:
    """End as an unhandled .NET exception does: a line on standard error and SIGABRT, without a core file."""
    _write(2, f"Unhandled exception. {message}\n".encode())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.abort()


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it; a reader that has gone away is not the runner's problem."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return
