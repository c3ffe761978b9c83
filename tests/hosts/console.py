"""Plain, numbered output for a terminal of 80 columns, or for a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

__all__ = ["INDENT", "WIDTH", "Console"]

WIDTH = 80
TAIL = 16  # " changed  12.3 s"
INDENT = "      "
COLOURS = {"ok": "32", "changed": "33", "failed": "31", "unreachable": "31", "title": "1", "dim": "2"}


class Console:
    """Writes steps as they happen. Colour only on a terminal, and not where ``NO_COLOR`` is set."""

    def __init__(self, steps: int, *, stream: TextIO = sys.stdout) -> None:
        self.steps = steps
        self._stream = stream
        self._terminal = stream.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        self._step = 0
        self._begin = time.monotonic()
        self._open = ""  # the unfinished line

    def title(self, text: str, *more: str) -> None:
        """The first lines."""
        self._write(self._paint("title", text) + "\n")
        for line in more:
            self._write(line + "\n")

    def step(self, text: str) -> None:
        """Begin the next step, with a line of its own."""
        self._step += 1
        self._write("\n" + self._paint("title", f"[{self._step}/{self.steps}] {text}") + "\n")

    def line(self, text: str = "") -> None:
        """A line of a step; a long one is not cut."""
        self._write(f"{INDENT}{text}".rstrip() + "\n")

    def begin(self, text: str, *, depth: int = 0) -> None:
        """The first half of a line that `end` finishes or `drop` takes back; a file gets it when finished."""
        indent = INDENT + "  " * depth
        room = WIDTH - len(indent) - TAIL - 2
        self._open = indent + (text if len(text) <= room else text[: room - 3] + "...") + " "
        self._begin = time.monotonic()
        if self._terminal:
            self._write(self._open)

    def end(self, status: str, *, seconds: float | None = None) -> None:
        """How it went and how long it took."""
        took = time.monotonic() - self._begin if seconds is None else seconds
        text, self._open = self._open, ""
        dots = "." * (WIDTH - len(text) - TAIL)
        tail = f" {self._paint(status, f'{status[:7]:<7}')} {took:5.1f} s"
        self._write(("\r" if self._terminal else "") + text + self._paint("dim", dots) + tail + "\n")

    def drop(self) -> None:
        """Take back a line that was begun."""
        if self._terminal and self._open:
            self._write("\r\x1b[K")
        self._open = ""

    def note(self, text: str) -> None:
        """A line between the halves of another."""
        waiting = self._open
        self.drop()
        self.line(f"  {text}")
        self._open = waiting
        if self._terminal:
            self._write(waiting)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as they need be."""
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        for row in (header, *rows):
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            self.line("  ".join(cells))

    def _paint(self, kind: str, text: str) -> str:
        code = COLOURS.get(kind)
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code else text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
