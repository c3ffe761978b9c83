"""What a hook and the guard say to each other: one line of JSON each way, bounded and versioned. Pure.

A hook asks and prints what it is told. What it says of itself is nothing but a question: who asks, the kernel
says, and what the job is, the guard looks up itself.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "LONGEST_ANSWER",
    "LONGEST_REQUEST",
    "SCHEMA",
    "SOCKET",
    "Answer",
    "Ask",
    "Request",
    "encode_answer",
    "one_line",
    "parse_request",
]

SOCKET = "/run/runnerctl/guard.sock"
SCHEMA = "runnerctl.guard/1"
LONGEST_REQUEST = 1024  # bytes, its line break included
LONGEST_ANSWER = 256 * 1024
LONGEST_LINE = 400
Ask = Literal["ping", "started", "completed"]
Verdict = Literal["alive", "admitted", "refused", "done"]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a hook asks: whether its job may start, or that it has ended; ``ping``: is anybody there?"""

    ask: Ask
    schema: Literal["runnerctl.guard/1"]


class Answer(msgspec.Struct, frozen=True):
    """What the hook is told: the verdict, why, and what to print.

    ``warnings``: one annotation each. ``text``: for the job's log. ``summary``: Markdown for its summary.
    """

    verdict: Verdict
    schema: str = SCHEMA
    reason: str = ""
    warnings: tuple[str, ...] = ()
    text: str = ""
    summary: str = ""


def parse_request(line: bytes) -> Request | None:
    """The request in a line; None when it is none, or of another version."""
    if len(line) > LONGEST_REQUEST:
        return None
    try:
        return msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def encode_answer(answer: Answer) -> bytes:
    """The answer as a line; its texts are cut where it would be too long."""
    data = msgspec.json.encode(answer)
    if len(data) >= LONGEST_ANSWER:
        share = LONGEST_ANSWER // 16  # a character takes up to twelve bytes in JSON
        cut = msgspec.structs.replace(
            answer,
            reason=one_line(answer.reason),
            warnings=tuple(one_line(warning) for warning in answer.warnings[:8]),
            text=answer.text[:share],
            summary=answer.summary[:share] if len(answer.summary) <= share else "",
        )
        data = msgspec.json.encode(cut)
    return data + b"\n"


def one_line(text: str) -> str:
    """A text from anywhere as one short printable line."""
    words = "".join(character if character.isprintable() else " " for character in text[:4096]).split()
    line = " ".join(words)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3]}..."
