"""How an answer looks: escaped names, plain tables, JSON, times.

Names of runners, jobs and branches come from people who may not be friends. Whatever reaches a terminal
passes `escape` first: no escape sequence, no reversed text, no line break of theirs gets through.
"""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

__all__ = ["NONE", "ascii_json", "cell", "escape", "fields", "rfc3339", "table", "to_json", "yes_no"]

NONE = "-"
GAP = "  "
NARROWEST_LAST_COLUMN = 16  # characters; narrower than this, wrapping reads worse than a long line


def escape(text: str, *, keep: str = "") -> str:
    """Replace what a terminal would act on or not show (C0, C1, ANSI, bidi, zero width) by ``\\x1b`` etc.

    ``keep`` names characters that stay as they are, for example a tab in a log line.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def to_json(value: Any) -> str:
    """JSON as an answer: ASCII only, so that no name in it can steer a terminal."""
    return ascii_json(json.dumps(value, indent=2, ensure_ascii=True))


def ascii_json(text: str) -> str:
    """JSON text with everything beyond printable ASCII as escapes (RFC 8259, section 7)."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(char if char.isascii() and char != "\x7f" else _json_escaped(char) for char in text)


def _json_escaped(char: str) -> str:
    data = char.encode("utf-16-be", "surrogatepass")  # beyond the basic plane: a pair of surrogates
    return "".join(f"\\u{int.from_bytes(data[at : at + 2], 'big'):04x}" for at in range(0, len(data), 2))


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def yes_no(value: bool | None) -> str:
    """A tri-state for people: yes, no, or not known."""
    return NONE if value is None else "yes" if value else "no"


def cell(value: object) -> str:
    """One value of a table or a field: escaped; nothing is ``-``; a list is joined with commas."""
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return yes_no(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return ",".join(escape(str(item)) for item in value) or NONE
    return escape(str(value))


def width_of(text: str) -> int:
    """Columns that ``text`` takes on a terminal: East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, width: int = 80) -> str:
    """A table in plain text; the last column is folded where the line would pass ``width`` columns.

    Nothing is ever cut off: a value that does not fit makes the line longer instead.
    """
    grid = [[cell(value) for value in row] for row in rows]
    widths = [max(width_of(row[i]) for row in [list(head), *grid]) for i in range(len(head))]
    before = sum(widths[:-1]) + len(GAP) * (len(head) - 1)
    room = max(width - before, NARROWEST_LAST_COLUMN)
    lines = [line for row in [list(head), *grid] for line in _lines(row, widths, room)]
    return "\n".join(lines)


def _lines(row: Sequence[str], widths: Sequence[int], room: int) -> list[str]:
    folded = _fold(row[-1], room)
    start = GAP.join(_pad(text, size) for text, size in zip(row[:-1], widths[:-1], strict=True))
    start += GAP if len(row) > 1 else ""
    return [(start if i == 0 else " " * width_of(start)) + part for i, part in enumerate(folded)]


def _pad(text: str, size: int) -> str:
    return text + " " * (size - width_of(text))


def _fold(text: str, room: int) -> list[str]:
    """Fold at spaces and after commas; a single long word stays whole."""
    if width_of(text) <= room:
        return [text]
    spaced = text.replace(", ", ",").replace(",", ",\0")
    lines = textwrap.wrap(spaced.replace("\0", " "), room, break_long_words=False, break_on_hyphens=False)
    return [line if " " in text else line.replace(", ", ",") for line in lines]


def fields(pairs: Mapping[str, object]) -> str:
    """``name: value`` lines with the values in one column."""
    size = max((len(name) for name in pairs), default=0) + 1
    return "\n".join(f"{name + ':':<{size}} {cell(value)}" for name, value in pairs.items())
