"""What a command may touch: environment, streams, clock, paths. Commands get it; nothing is global."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from runnerctl.errors import UnavailableError

__all__ = ["Context", "Output", "OutputClosedError", "Paths", "system_context"]

Output = Literal["text", "json"]


class OutputClosedError(Exception):
    """Nobody reads the answer any more (``runnerctl list | head -1``): stop without a word."""


@dataclass(frozen=True)
class Paths:
    """Where a host keeps what the toolkit put there; the root is ``/`` unless ``--rootfs`` says else."""

    root: Path = Path("/")

    def __truediv__(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    @property
    def host_file(self) -> Path:
        """The spec of this host."""
        return self / "etc/runnerctl/host.json"

    @property
    def slots(self) -> Path:
        """One directory per slot: its runner's root."""
        return self / "var/lib/gha-runner"

    @property
    def state(self) -> Path:
        """The toolkit's own state: slots/, hold/, pending/."""
        return self / "var/lib/runnerctl"

    def is_this_host(self) -> bool:
        """Whether the running systemd belongs to this root."""
        return self.root == Path("/")


@dataclass
class Context:
    """Handed to every command as ``ctx.obj``."""

    env: Mapping[str, str]
    stdout: TextIO
    stderr: TextIO
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    paths: Paths = field(default_factory=Paths)
    user_id: Callable[[], int] = os.geteuid
    default_output: Output = "text"

    def at(self, rootfs: str | None) -> Paths:
        """The paths a command works on: those of ``--rootfs``, or this host's."""
        return Paths(Path(rootfs)) if rootfs else self.paths

    def wants_json(self, output: str | None) -> bool:
        """Whether the answer is to be JSON: the command's own ``-o`` beats the one before the command."""
        return (output or self.default_output) == "json"

    def say(self, text: str) -> None:
        """Write a piece of the answer. Raises OutputClosedError or UnavailableError."""
        self._write(text + "\n")

    def flush(self) -> None:
        """Hand over what was said. Raises as `say` does."""
        self._write(None)

    def _write(self, text: str | None) -> None:
        try:
            if text is None:
                self.stdout.flush()
            else:
                self.stdout.write(text)
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnavailableError(f"cannot write the answer: {reason}", where="standard output") from None

    def note(self, text: str) -> None:
        """Write a line of the log. When even that fails there is nobody left to tell."""
        try:
            print(text, file=self.stderr, flush=True)
        except (OSError, ValueError):
            return

    def say_json(self, value: Any) -> None:
        """Write the answer as JSON."""
        from runnerctl.cli.output import to_json

        self.say(to_json(value))

    @property
    def width(self) -> int:
        """Columns to fill: ``COLUMNS``, the terminal's, or 80."""
        columns = self.env.get("COLUMNS", "")
        if columns.isdigit() and int(columns) > 0:
            return int(columns)
        return shutil.get_terminal_size().columns if self.is_terminal() else 80

    def is_terminal(self) -> bool:
        """Whether somebody watches."""
        try:
            return self.stdout.isatty()
        except ValueError:
            return False

    def colour(self) -> bool:
        """Whether colour may be used: on a terminal that can, unless ``NO_COLOR`` is set (no-color.org)."""
        return self.is_terminal() and not self.env.get("NO_COLOR") and self.env.get("TERM") != "dumb"


def system_context() -> Context:
    """The context of a real process. A stream that was closed before we came is replaced by nothing."""
    return Context(env=os.environ, stdout=_stream(sys.stdout), stderr=_stream(sys.stderr))


def _stream(stream: Any) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # a locale without UTF-8 must not end a report
    return cast(TextIO, stream)
