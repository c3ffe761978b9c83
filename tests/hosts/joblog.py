"""A job's log as GitHub's page shows it: steps by name, commands folded to one line, no timestamps."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["JobLog"]

STEP = "##[section]Starting: "
COMMAND = "##[group]Run "
ERROR = "##[error]"


class JobLog:
    """Takes the log in pieces, as it grows, and gives lines for a reader."""

    def __init__(self) -> None:
        self._rest = ""
        self._folded = False

    def add(self, text: str) -> Iterator[str]:
        """The lines that are complete now."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            yield from self._line(line.partition(" ")[2])

    def _line(self, line: str) -> Iterator[str]:
        if line.startswith(COMMAND):
            self._folded = True
            yield f"$ {line.removeprefix(COMMAND)}"
        elif line.startswith("##[endgroup]"):
            self._folded = False
        elif self._folded:
            return
        elif line.startswith(STEP):
            yield f"== {line.removeprefix(STEP)}"
        elif line.startswith(ERROR):
            yield f"error: {line.removeprefix(ERROR)}"
        elif not line.startswith("##["):
            yield line
