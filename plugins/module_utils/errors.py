"""What the target half cannot do, said in one line.

Shared by the modules (which end in ``fail_json``) and by the command line on the host (which prints it).
"""

from __future__ import annotations

__all__ = ["HostError", "one_line"]


class HostError(Exception):
    """``what`` failed on ``where``; ``remedy`` says what to do next. Its text is one line."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return " ".join((f"{line}; {self.remedy}" if self.remedy else line).split())


def one_line(error: Exception) -> str:
    """What a module says of an error that it expects: a HostError, or the system's own (OSError)."""
    if isinstance(error, OSError):
        return " ".join(f"{error.filename or 'the host'}: {error.strerror or error}".split())
    return str(error)
