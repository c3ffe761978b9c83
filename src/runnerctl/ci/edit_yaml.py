"""Add lines to a YAML file, and leave every byte of it as it is. Needs the extra ``ci``.

Libraries that write YAML lay out anew what they did not change. Here a parser only says where things stand;
what is added is text, and the result is parsed again to prove that nothing but the addition differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runnerctl.ci.workflow_yaml import YamlError, is_flow, load
from runnerctl.errors import DataError

__all__ = ["add_items", "block_list", "document"]


def document(text: str, where: str) -> Any:
    """The content of a file with its lines. Raises DataError for what is no YAML mapping."""
    try:
        node = load(text)
    except YamlError as error:
        raise DataError(str(error), where=f"{where}:{error.line}", remedy="correct the file") from None
    if not isinstance(node, dict):
        raise DataError("is no YAML mapping", where=where, remedy="correct the file")
    return node


def block_list(node: Any) -> bool:
    """Whether lines can be added to a node: a list with items, one below the other."""
    return isinstance(node, list) and len(node) > 0 and not is_flow(node)


def add_items(text: str, items: Any, lines: Sequence[str], *, after: int = -1) -> str:
    """``text`` with ``lines`` added as items of the block list ``items``, behind the item ``after``.

    ``lines`` are written as from column zero and are moved to the list's own column.
    """
    column = items.lc.col
    rows = text.split("\n")
    end = last = items.lc.item(after if after >= 0 else len(items) - 1)[0]
    for at in range(last + 1, len(rows)):
        content = rows[at].strip()
        if not content or content.startswith("#"):
            continue
        if len(rows[at]) - len(rows[at].lstrip()) <= column:
            break
        end = at
    rows[end + 1 : end + 1] = [" " * column + line for line in lines]
    return "\n".join(rows)
