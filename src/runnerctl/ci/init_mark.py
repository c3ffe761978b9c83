"""The mark in files that ``ci init`` writes whole: the command that wrote them, and a hash. Pure.

With it three states are told apart, as in a merge with a common ancestor: nobody touched the file (it may be
replaced), the user edited it and there is nothing new (it stays), and both sides changed (the user decides).
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

__all__ = ["State", "command_of", "marked", "state"]

State = Literal["same", "old", "edited", "both", "foreign"]
_HEAD = """\
# Written by `{command}`. Run it again to bring this file up to date;
# an edited file is kept, and shown beside what would be written.
"""
_MARK = "# runnerctl-ci-init sha256:{digest}\n"
_LINE = re.compile(r"^# runnerctl-ci-init sha256:([0-9a-f]{64})$", re.MULTILINE)
_COMMAND = re.compile(r"^# Written by `(runnerctl ci init[^`\n]*)`", re.MULTILINE)


def marked(text: str, command: str) -> str:
    """``text`` with its head, and with the hash of both."""
    whole = _HEAD.format(command=command) + text
    return _MARK.format(digest=_digest(whole)) + whole


def command_of(text: str) -> str | None:
    """The command that wrote a file; None when none of ours did."""
    found = _COMMAND.search(text) if _LINE.search(text) else None
    return found[1] if found else None


def state(now: str | None, new: str) -> State:
    """How the file's content ``now`` stands to what would be written today.

    ``same``: equal. ``old``: written by us and untouched since. ``edited``: by the user, and what we would
    write is what we wrote then. ``both``: edited, and we would write something else. ``foreign``: never ours.
    """
    now = (now or "").replace("\r\n", "\n")
    if now == new or (now and new.endswith(f"\n{now}")):  # without the head it is the same, too
        return "same"
    found = _LINE.search(now)
    if found is None:
        return "foreign"
    if found[1] == _digest(_LINE.sub("", now, count=1).removeprefix("\n")):
        return "old"
    new_mark = _LINE.search(new)
    return "edited" if new_mark and new_mark[1] == found[1] else "both"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
