"""``runnerctl list --watch``: look again and again, gently."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from runnerctl.cli.context import Context
from runnerctl.cli.options import seconds_given
from runnerctl.cli.output import escape, rfc3339
from runnerctl.errors import TryAgainError, UnavailableError

__all__ = ["DEFAULT_SECONDS", "Watch", "interval_seconds"]

DEFAULT_SECONDS = 15.0
SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 3600.0
SLOWEST_FACTOR = 16.0  # how much rarer it asks after failures in a row
SPARING_FACTOR = 8.0  # and where less than a tenth of the rate limit is left
HOME, CLEAR, END_OF_LINE, BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


def interval_seconds(text: str | None) -> float:
    """The pause between two looks. Raises UsageError when it is none."""
    given = seconds_given(text, "--interval", least=SHORTEST_SECONDS, most=LONGEST_SECONDS)
    return DEFAULT_SECONDS if given is None else given


@dataclass
class Watch:
    """Shows what ``block`` answers until somebody ends it. ``plain``: never draw over what was shown.

    ``block`` looks and renders; on a failure that may pass the last block stays, the failure below it, and
    the next look comes later. GitHub's limits are kept by the client, and what has not changed costs nothing;
    ``low`` says that little is left all the same.
    """

    context: Context
    block: Callable[[], str]
    seconds: float
    plain: bool = False
    low: Callable[[], bool] = lambda: False

    def run(self) -> int:
        """Never returns but by an exception: KeyboardInterrupt ends a watch."""
        redraw = not self.plain and self.context.is_terminal() and self.context.env.get("TERM") != "dumb"
        if redraw:
            self.context.say(CLEAR)
        last, factor = "", 1.0
        while True:
            try:
                last, problem = self.block(), ""
                factor = SPARING_FACTOR if self.low() else 1.0
            except (TryAgainError, UnavailableError) as error:
                problem, factor = str(error), min(factor * 2.0, SLOWEST_FACTOR)
            if redraw:
                self._draw(last, problem, factor)
            else:
                self._append(last, problem)
            self.context.flush()
            self.context.sleep(self.seconds * factor)

    def _draw(self, block: str, problem: str, factor: float) -> None:
        """Draw over the last picture, line by line: clearing the screen first would flicker."""
        lines = [f"{rfc3339(self.context.clock())}  every {self.seconds * factor:g} s", *block.splitlines()]
        if problem:
            lines.insert(1, f"not up to date: {escape(problem)}")
        room = max(shutil.get_terminal_size().lines - 1, 4)
        if len(lines) > room:
            more = len(lines) - room + 1
            lines = [*lines[: room - 2], f"... {more} more lines; narrow it down with filters", lines[-1]]
        self.context.say(HOME + "\n".join(line + END_OF_LINE for line in lines) + BELOW)

    def _append(self, block: str, problem: str) -> None:
        if problem:
            self.context.note(f"runnerctl: {escape(problem)}")
        elif self.plain:
            self.context.say(block)
        else:
            self.context.say(f"{rfc3339(self.context.clock())}\n{block}\n")
