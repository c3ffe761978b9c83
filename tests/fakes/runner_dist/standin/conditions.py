"""``if:`` of a step: status functions, literals, ``!``, ``&&`` and ``||``."""

from __future__ import annotations

import re

_FUNCTIONS = re.compile(r"\b(success|failure|always|cancelled)\s*\(\s*\)")


def holds(expression: str, *, failed: bool, cancelled: bool) -> bool:
    """Whether the step runs. Raises ValueError for anything this small reader does not know."""
    text = expression.strip()
    if text.startswith("${{") and text.endswith("}}"):
        text = text[3:-2].strip()
    status = {
        "success": not failed and not cancelled,
        "failure": failed,
        "always": True,
        "cancelled": cancelled,
    }
    if not text:
        return status["success"]
    if not _FUNCTIONS.search(text):
        return status["success"] and _either(text, status)
    return _either(_FUNCTIONS.sub(r"\1", text), status)


def _either(text: str, values: dict[str, bool]) -> bool:
    return any(_both(part, values) for part in text.split("||"))


def _both(text: str, values: dict[str, bool]) -> bool:
    return all(_one(part.strip(), values) for part in text.split("&&"))


def _one(text: str, values: dict[str, bool]) -> bool:
    if text.startswith("!"):
        return not _one(text[1:].strip(), values)
    if text in ("true", "false"):
        return text == "true"
    if text in values:
        return values[text]
    raise ValueError(f"The expression is not valid: '{text}'")
