"""Ansible's documentation markup as Markdown, and small pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["cell", "paragraphs", "plain", "table"]

# C(code), V(value), O(option), E(environment variable), RV(return value), P(plugin), I/B: italic, bold.
_CODE = re.compile(r"\b(?:C|V|O|E|RV|P)\(((?:[^()\\]|\\.|\([^()]*\))*)\)")
_EMPHASIS = re.compile(r"\b[IB]\(([^()]*)\)")
_MODULE = re.compile(r"\bM\(([^()]*)\)")
_LINK = re.compile(r"\bL\(([^,()]*),\s*([^()]*)\)")
_URL = re.compile(r"\bU\(([^()]*)\)")


def plain(text: str) -> str:
    """One text, with Markdown instead of Ansible's markup."""
    text = _LINK.sub(r"[\1](\2)", " ".join(text.split()))
    text = _URL.sub(r"<\1>", text)
    text = _CODE.sub(lambda match: f"`{match[1]}`", text)
    return _EMPHASIS.sub(r"*\1*", _MODULE.sub(r"`\1`", text))


def paragraphs(text: str | Sequence[str]) -> str:
    """A description, which is one text or a list of paragraphs."""
    each = [text] if isinstance(text, str) else text
    return "\n\n".join(plain(part) for part in each)


def cell(value: Any) -> str:
    """A value for a table: one line, bars escaped."""
    text = " ".join(plain(part) for part in ([value] if isinstance(value, str) else value))
    return text.replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, with a final line break."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
