"""The channels' credentials must stand in no answer and in no log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["scrubber"]

_SHORTEST = 6  # characters; what is shorter stands in innocent words, too
_INSTEAD = b"***"


def scrubber(path: str | None) -> Callable[[bytes], bytes]:
    """What takes every text of the file of credentials out of a line, as it is and as JSON writes it."""
    if path is None:
        return lambda line: line
    try:
        content = msgspec.json.decode(Path(path).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return lambda line: line
    texts = {text for text in _texts(content) if len(text) >= _SHORTEST}
    forms = {form for text in texts for form in (text.encode(), msgspec.json.encode(text)[1:-1])}
    longest_first = sorted(forms, key=len, reverse=True)

    def scrub(line: bytes) -> bytes:
        for form in longest_first:
            line = line.replace(form, _INSTEAD)
        return line

    return scrub


def _texts(value: Any) -> Iterator[str]:
    """The texts of a JSON document; keys are names of hosts and of kinds of credentials."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            todo += each.values()
        elif isinstance(each, list):
            todo += each
