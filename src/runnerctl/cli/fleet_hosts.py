"""Ask every host of an inventory for its health verdict, through Ansible, and tell who is waited for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from runnerctl.cli.context import Context
from runnerctl.cli.inventory import Resolved
from runnerctl.cli.output import escape
from runnerctl.cli.playbook import play
from runnerctl.core.fleet import HostAnswer
from runnerctl.core.health import SCHEMA, Health
from runnerctl.core.slot_layout_foreseen import foreseen
from runnerctl.core.spec import HostSpec
from runnerctl.errors import DataError

__all__ = ["Progress", "answer_of", "ask_hosts", "specs_of"]

FORKS = 32  # hosts asked at a time: each is one process here that mostly waits
CONNECT_SECONDS = 30.0  # for SSH and Python's start, on top of the host's own deadline
# A host's word is a stranger's: more is no verdict, and would keep all others waiting.
MOST_FINDINGS = 2000
LONGEST_TEXT = 10_000  # characters
LONGEST_LINE = 78  # columns of the line of progress
_DONE = re.compile(r"^(?:ok|fatal|changed|skipping|unreachable): \[([^\]]+)\]")


def specs_of(hosts: Sequence[Resolved]) -> dict[str, HostSpec]:
    """The specs of the hosts that have one. Raises DataError when the playbook is of another version."""
    try:
        return {
            each.host: foreseen(msgspec.convert(each.spec, HostSpec))
            for each in hosts
            if each.spec is not None
        }
    except msgspec.ValidationError as error:
        remedy = "use the collection that came with this runnerctl"
        raise DataError(f"the playbook wrote a spec of another form: {error}", remedy=remedy) from None


def ask_hosts(
    context: Context,
    hosts: Sequence[Resolved],
    specs: Mapping[str, HostSpec],
    *,
    inventory: str,
    limit: str | None,
    deadline_seconds: float,
) -> list[HostAnswer]:
    """Every host's verdict, or why there is none, in the inventory's order.

    Raises ConfigError without ansible-core, UnavailableError when Ansible itself does not end.
    """
    names = [each.host for each in hosts]
    each_seconds = deadline_seconds + CONNECT_SECONDS
    rounds = math.ceil(len(names) / FORKS)
    progress = Progress(context, names)
    progress.begin()
    try:
        played = play(
            context,
            "fleet",
            inventory=inventory,
            limit=limit,
            variables={
                "fleet_deadline_seconds": deadline_seconds,
                "fleet_timeout_seconds": math.ceil(each_seconds),
            },
            output_variable="fleet_output_dir",
            arguments=("--forks", str(min(FORKS, len(names)))),
            seconds=60.0 + rounds * 2 * each_seconds,
            tell=progress.heard,
            progress=progress.counted,
        )
    finally:
        progress.end()
    missing = f"gave no answer within {each_seconds:.0f} s"
    if played.status and not played.answers:
        missing = f"Ansible did not ask it: {played.reason}"
    return [
        answer_of(each, specs.get(each.host), played.answers.get(each.host), missing=missing)
        for each in hosts
    ]


def answer_of(
    host: Resolved, spec: HostSpec | None, data: Mapping[str, Any] | None, *, missing: str
) -> HostAnswer:
    """What a host's answer says; ``missing`` is the reason when there is none."""
    if spec is None:
        first = (
            host.problems[0] if host.problems else {"variable": "", "message": "has no spec", "remedy": ""}
        )
        reason = f"inventory: {first['variable']} {first['message']}"
        return HostAnswer(host.host, None, reason=" ".join(reason.split()), remedy=first["remedy"])
    if not data:
        return HostAnswer(
            host.host, spec, reason=missing, remedy="see why it is slow, or give more --deadline"
        )
    health = data.get("health")
    if health is None:
        reason, remedy = (str(data.get(name) or "") for name in ("reason", "remedy"))
        return HostAnswer(host.host, spec, reason=reason or missing, remedy=remedy)
    return _verdict(host.host, spec, health)


def _verdict(host: str, spec: HostSpec, data: Any) -> HostAnswer:
    remedy = "run the provision playbook for this host again"
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        reason = f"its verdict has schema {str(found)[:40]!r}, not {SCHEMA!r}: another runnerctl is there"
        return HostAnswer(host, spec, reason=reason, remedy=remedy)
    try:
        health = msgspec.convert(data, Health)
    except msgspec.ValidationError as error:
        return HostAnswer(host, spec, reason=f"its verdict cannot be read: {error}", remedy=remedy)
    texts = (text for each in health.findings for text in (each.id, each.subject, each.summary, each.remedy))
    if len(health.findings) > MOST_FINDINGS or any(len(text) > LONGEST_TEXT for text in texts):
        return HostAnswer(host, spec, reason="its verdict is longer than any verdict is", remedy=remedy)
    return HostAnswer(host, spec, health=health)


class Progress:
    """One line on a terminal's stderr, written over itself; nothing where nobody watches."""

    def __init__(self, context: Context, names: Sequence[str]) -> None:
        self._stream = context.stderr
        self._waiting = dict.fromkeys(names)
        self._all = len(names)
        self._count = 0
        self._watched = _is_terminal(context)

    def begin(self) -> None:
        """Show the first line."""
        self._show()

    def end(self) -> None:
        """Wipe the line away."""
        if self._watched:
            self._write("\r" + " " * LONGEST_LINE + "\r")

    def heard(self, line: str) -> None:
        """A line of Ansible's: it tells whose turn is over."""
        found = _DONE.match(line)
        if found:
            self._waiting.pop(found[1], None)
        self._show()

    def counted(self, number: int) -> None:
        """So many hosts have answered."""
        if number != self._count:
            self._count = number
            self._show()

    def text(self) -> str:
        """The line: how many have answered, and for whom it waits."""
        line = f"{self._count} of {self._all} hosts answered"
        if self._waiting and self._count < self._all:
            line += f", waiting for {', '.join(escape(name) for name in self._waiting)}"
        return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3]}..."

    def _show(self) -> None:
        if self._watched:
            self._write("\r" + self.text().ljust(LONGEST_LINE))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._watched = False  # nobody is left to watch


def _is_terminal(context: Context) -> bool:
    try:
        return context.stderr.isatty() and context.env.get("TERM") != "dumb"
    except ValueError:
        return False
