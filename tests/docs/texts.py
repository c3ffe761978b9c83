"""What the hand-written pages contain: links, headings, shell lines and YAML blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.docs.pages import ROOT

__all__ = ["Link", "anchors", "links", "shell_lines", "texts", "yaml_blocks"]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SUDO = re.compile(r"sudo|--preserve-env(=\w+)?")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


class Link(NamedTuple):
    """A relative link: the file it points to and the heading in it, empty for none."""

    target: Path
    anchor: str


def texts() -> list[Path]:
    """Every page: those at the top of the checkout and all of docs."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def links(page: Path) -> Iterator[Link]:
    """Every relative link of a page."""
    for address in _LINK.findall(_FENCE.sub("", page.read_text())):
        path, _, anchor = address.partition("#")
        if "://" not in address and not address.startswith("mailto:"):
            yield Link((page.parent / path).resolve() if path else page, anchor)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def _blocks(page: Path, languages: tuple[str, ...]) -> Iterator[str]:
    for language, block in _FENCE.findall(page.read_text()):
        if language in languages:
            yield block


def shell_lines(page: Path) -> Iterator[list[str]]:
    """Every command in a ``sh`` block: its words without variables in front, comments or redirections."""
    for block in _blocks(page, ("sh", "bash")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and (_SUDO.fullmatch(words[0]) or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words = words[1:]
            if words:
                ends = [i for i, word in enumerate(words) if word in ("|", ">", "&&", "||", ">>")]
                yield words[: ends[0]] if ends else words


def yaml_blocks(page: Path) -> Iterator[Any]:
    """The content of every ``yaml`` block."""
    for block in _blocks(page, ("yaml",)):
        yield yaml.safe_load(block)
