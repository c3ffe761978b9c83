"""Every error a user can meet.

::

    RunnerctlError                 exit code
    ├── UsageError                 64  the command line is off
    ├── DataError                  65  a file's content cannot be used
    ├── UnavailableError           69  something outside did not answer
    ├── TryAgainError              75  it will work later (rate limit, busy slot)
    ├── AccessError                77  the credential is missing, expired or too weak
    ├── ConfigError                78  the inventory or the environment is wrong
    └── BugError                   70  our own mistake

The codes are those of ``sysexits.h``. An error says what failed, on what, and what to do next; a command
prints it as one line and never as a traceback.
"""

from __future__ import annotations

__all__ = [
    "AccessError",
    "BugError",
    "ConfigError",
    "DataError",
    "RunnerctlError",
    "TryAgainError",
    "UnavailableError",
    "UsageError",
]


class RunnerctlError(Exception):
    """Root of the tree. ``what`` failed on ``where``; ``remedy`` says what to do next."""

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{line}; {self.remedy}" if self.remedy else line
        return " ".join(text.split())


class UsageError(RunnerctlError):
    """The command line is off."""

    exit_code = 64


class DataError(RunnerctlError):
    """The content of a file or an answer cannot be used."""

    exit_code = 65


class UnavailableError(RunnerctlError):
    """Something outside did not answer in time, or at all."""

    exit_code = 69


class TryAgainError(RunnerctlError):
    """It cannot be done now and will work later."""

    exit_code = 75


class AccessError(RunnerctlError):
    """The credential is missing, expired or too weak, or the user may not do this."""

    exit_code = 77


class ConfigError(RunnerctlError):
    """What the inventory or the environment says cannot be."""

    exit_code = 78


class BugError(RunnerctlError):
    """Our own mistake; the text asks for a report."""

    exit_code = 70
